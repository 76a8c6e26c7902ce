package manual

import (
	"strings"
)

// Flag is a flag as its help text has it.
type Flag struct {
	Names   []string // as typed, such as "-e" and "--env"
	Value   string   // what it takes, such as "NAME=VALUE"; empty if nothing
	Text    string   // what it does, on one line
	Heading string   // of the table that it is in
}

// Flags are the flags in the tables of a help text.
func (t Text) Flags() (flags []Flag) {
	for _, b := range t.Blocks {
		for _, e := range b.Table {
			f := Flag{Text: e.Text(), Heading: b.Heading}
			for word := range strings.FieldsSeq(e.Term) {
				switch {
				case strings.HasPrefix(word, "-"):
					f.Names = append(f.Names, strings.TrimSuffix(word, ","))
				case f.Value == "":
					f.Value = word
				}
			}
			if len(f.Names) > 0 {
				flags = append(flags, f)
			}
		}
	}
	return flags
}

// Arguments are the words after a command and its flags, as the usage has them:
// "NAME", "COMMAND", "a|b|c". path is the command, such as "lab run". Of several
// lines of usage the first of this command counts.
func (t Text) Arguments(path string) (names []string) {
	prefix := "tcpbox " + path
	for _, line := range t.Usage {
		rest, ok := strings.CutPrefix(line, prefix)
		if !ok || rest != "" && rest[0] != ' ' {
			continue
		}
		for _, word := range usageWords(rest) {
			bare := strings.TrimSuffix(strings.Trim(word, "[]"), "...")
			if bare == "FLAGS" || strings.HasPrefix(bare, "-") {
				continue // with its value, which is in the same brackets
			}
			names = append(names, bare)
		}
		return names
	}
	return nil
}

// usageWords splits at the spaces that are outside brackets.
func usageWords(usage string) (words []string) {
	depth, word := 0, ""
	for _, r := range usage {
		switch r {
		case '[':
			depth++
		case ']':
			depth--
		case ' ':
			if depth <= 0 {
				if word != "" {
					words = append(words, word)
				}
				word = ""
				continue
			}
		}
		word += string(r)
	}
	if word != "" {
		words = append(words, word)
	}
	return words
}

// Choices are the words of a value that names them all, such as
// "none|public|all"; what is in capitals stands for something else.
func Choices(value string) (words []string) {
	for word := range strings.SplitSeq(value, "|") {
		if word != "" && word == strings.ToLower(word) && !strings.ContainsAny(word, ":=[]") {
			words = append(words, word)
		}
	}
	return words
}
