package main

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// flagsAnywhere are the commands whose flags may follow their arguments, of
// which no word begins with a dash: filters, names, numbers.
var flagsAnywhere = []string{"ss", "log", "stat", "ladder", "inspect", "stop", "publish", "unpublish", "explain", "set", "get"}

// flagsFirst moves the flags of such a command before its arguments, where the
// flag parser wants them. Behind -- nothing is a flag.
func flagsFirst(app *cli.App, args []string) []string {
	if len(args) < 2 || !slices.Contains(flagsAnywhere, args[1]) {
		return args
	}
	cmd := app.Command(args[1])
	var flags, words []string
	for i := 2; i < len(args); i++ {
		arg := args[i]
		switch {
		case arg == "--":
			words = append(words, args[i:]...)
			i = len(args)
		case len(arg) < 2 || arg[0] != '-':
			words = append(words, arg)
		default:
			flags = append(flags, arg)
			if takesValue(cmd, arg) && i+1 < len(args) {
				i++
				flags = append(flags, args[i])
			}
		}
	}
	return slices.Concat(args[:2], flags, words)
}

// takesValue reports whether the word behind the flag is its value.
func takesValue(cmd *cli.Command, arg string) bool {
	for _, f := range cmd.Flags {
		if _, isBool := f.(*cli.BoolFlag); !isBool && slices.Contains(f.Names(), strings.TrimLeft(arg, "-")) {
			return true
		}
	}
	return false
}
