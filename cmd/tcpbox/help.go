package main

import (
	"embed"
	"strings"
)

//go:embed help/*.txt
var helpFiles embed.FS

// helpTexts are the hand-written helps, by command.
var helpTexts = loadHelp()

func loadHelp() map[string]string {
	entries, err := helpFiles.ReadDir("help")
	if err != nil {
		panic(err) // embedded by the build
	}
	texts := make(map[string]string)
	for _, e := range entries {
		b, err := helpFiles.ReadFile("help/" + e.Name())
		if err != nil {
			panic(err)
		}
		texts[strings.TrimSuffix(e.Name(), ".txt")] = string(b)
	}
	return texts
}

// helpText returns the help of a command in the form that cli takes: a
// template, in which nothing of ours is an action.
func helpText(name string) string {
	return strings.ReplaceAll(helpTexts[name], "{{", "{{`{{`}}")
}
