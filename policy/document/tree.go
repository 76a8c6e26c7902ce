package document

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// maxSize bounds a document, in bytes.
const maxSize = 256 << 10

// maxDepth is more than any document needs.
const maxDepth = 8

// A node is a value of the document, without anything of YAML's.
type node struct {
	kind         kind
	text         string // of a scalar
	keys         []key  // of a mapping, in their order
	items        []*node
	line, column int // from 1
}

type kind uint8

const (
	scalar kind = iota + 1
	mapping
	list
)

func (k kind) String() string {
	switch k {
	case mapping:
		return "a mapping"
	case list:
		return "a list"
	default:
		return "a single value"
	}
}

// A key of a mapping, and its value.
type key struct {
	name         string
	line, column int
	value        *node
}

// read turns YAML, of which JSON is a part, into a tree.
func (p *reader) read(data []byte) *node {
	switch {
	case len(data) > maxSize:
		p.fault(1, 1, fmt.Sprintf("a policy has at most %d KiB", maxSize>>10), "the file is larger")
		return nil
	case !utf8.Valid(data) || bytes.ContainsRune(data, 0):
		p.fault(1, 1, "a policy is written in UTF-8", "the file is not text")
		return nil
	}
	in := yaml.NewDecoder(bytes.NewReader(untabbed(data)))
	var first, second yaml.Node
	err := in.Decode(&first)
	switch {
	case errors.Is(err, io.EOF) || err == nil && isNothing(&first):
		p.fault(1, 1, "the least is: version: 1", "there is nothing in it")
	case err != nil:
		line, text := explain(err)
		if at, column := tabIn(data, line); at > 0 {
			p.fault(at, column, "indent with spaces: YAML takes no tabs there", "there is a tab in the indentation")
			break
		}
		p.fault(line, 1, yamlHint, "%s", text)
	case in.Decode(&second) != io.EOF:
		p.fault(max(1, second.Line), 1, "leave out the lines with ---", "a second document begins here")
	default:
		return p.node(first.Content[0], 0)
	}
	return nil
}

func isNothing(document *yaml.Node) bool {
	return len(document.Content) == 0 || document.Content[0].Tag == "!!null"
}

const yamlHint = "a policy is YAML or JSON; in YAML, what belongs together is indented alike, with spaces"

// untabbed is JSON with spaces for its tabs: YAML forbids them where it looks at
// indentation, and in braces it does not look.
func untabbed(data []byte) []byte {
	if text := bytes.TrimLeft(data, " \t\r\n"); len(text) > 0 && text[0] == '{' {
		return bytes.ReplaceAll(data, []byte("\t"), []byte(" "))
	}
	return data
}

// tabIn finds a tab in the indentation of a line, which the decoder has stumbled over
// there or a line later; line is 0 if there is none.
func tabIn(data []byte, until int) (line, column int) {
	for text := range bytes.Lines(data) {
		if line++; line > until+1 {
			break
		}
		indent := text[:len(text)-len(bytes.TrimLeft(text, " \t"))]
		if i := bytes.IndexByte(indent, '\t'); i >= 0 {
			return line, i + 1
		}
	}
	return 0, 0
}

// position is how the decoder begins its messages.
var position = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

// explain takes a message of the decoder apart.
func explain(err error) (line int, text string) {
	text, _, _ = strings.Cut(err.Error(), "\n")
	line = 1
	if m := position.FindStringSubmatch(text); m != nil {
		if n, err := strconv.Atoi(m[1]); err == nil && n > 0 {
			line = n
		}
		text = text[len(m[0]):]
	}
	return line, printable(text)
}

// printable replaces what would disturb a terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, text)
}

// node copies one node, and refuses what is of YAML only.
func (p *reader) node(n *yaml.Node, depth int) *node {
	out := &node{line: n.Line, column: n.Column}
	refuse := func(what string) *node {
		p.fault(n.Line, n.Column, "write the value itself", "%s has no place in a policy", what)
		return nil
	}
	switch {
	case depth > maxDepth:
		p.fault(n.Line, n.Column, "", "it is nested too deep")
		return nil
	case n.Kind == yaml.AliasNode:
		return refuse("an alias (*)")
	case n.Anchor != "":
		return refuse("an anchor (&)")
	case n.Style&yaml.TaggedStyle != 0:
		return refuse("a tag (!)")
	case n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0:
		return refuse("a block of text")
	case n.Tag == "!!null":
		p.fault(n.Line, n.Column, "give it a value, or leave the key out", "it has no value")
		return nil
	}
	switch n.Kind {
	case yaml.MappingNode:
		out.kind = mapping
		for i := 0; i+1 < len(n.Content); i += 2 {
			p.pair(out, n.Content[i], n.Content[i+1], depth)
		}
	case yaml.SequenceNode:
		out.kind = list
		for _, item := range n.Content {
			if item := p.node(item, depth+1); item != nil {
				out.items = append(out.items, item)
			}
		}
	default:
		// What was written, and not what YAML makes of it: 0x10 is no number here.
		out.kind, out.text = scalar, n.Value
	}
	return out
}

// pair copies one key of a mapping.
func (p *reader) pair(out *node, name, value *yaml.Node, depth int) {
	if name.Kind != yaml.ScalarNode || name.Anchor != "" || name.Style&^(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0 {
		p.fault(name.Line, name.Column, "a key is a word", "this has no place in a policy")
		return
	}
	k := key{name: name.Value, line: name.Line, column: name.Column}
	for _, other := range out.keys {
		if other.name == k.name {
			p.fault(k.line, k.column, fmt.Sprintf("it stands in line %d already", other.line), "%q is given twice", k.name)
			return
		}
	}
	if k.value = p.node(value, depth+1); k.value != nil {
		out.keys = append(out.keys, k)
	}
}
