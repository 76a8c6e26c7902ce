package lab

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"tcpbox/policy/spell"
)

// maxFile bounds a lab's file, in bytes.
const maxFile = 1 << 20

// FileError is what is wrong with a lab's file, and where.
type FileError struct {
	File         string
	Line, Column int // from 1
	Err          error
}

func (e *FileError) Error() string {
	return fmt.Sprintf("%s:%d:%d: %v", e.File, e.Line, e.Column, e.Err)
}

// Unwrap returns what is wrong without the place.
func (e *FileError) Unwrap() error { return e.Err }

// Parse reads a lab that is written as YAML, of which JSON is a part, with the
// names that Lab.WriteJSON gives the fields. file is for messages. The error
// joins all faults, each a *FileError.
func Parse(file string, data []byte) (*Lab, error) {
	p := &parser{file: file}
	root := p.read(data)
	if root == nil {
		return nil, errors.Join(p.faults...)
	}
	var l Lab
	p.value(root, reflect.ValueOf(&l).Elem(), "lab")
	if len(p.faults) == 0 {
		for _, f := range l.faults() {
			n := place(root, f.row, f.step)
			if value := child(n, f.key); value != nil && f.key != "" {
				n = value
			}
			p.at(n, f.err)
		}
	}
	if len(p.faults) > 0 {
		return nil, errors.Join(p.faults...)
	}
	l.strict = true
	return &l, nil
}

// parser turns YAML into the types of this package.
type parser struct {
	file   string
	faults []error
}

func (p *parser) at(n *yaml.Node, err error) {
	p.faults = append(p.faults, &FileError{p.file, max(1, n.Line), max(1, n.Column), err})
}

func (p *parser) errorf(n *yaml.Node, format string, args ...any) {
	p.at(n, fmt.Errorf(format, args...))
}

// read returns the one value of the file, nil if there is a fault.
func (p *parser) read(data []byte) *yaml.Node {
	top := &yaml.Node{Line: 1, Column: 1}
	if len(data) > maxFile || !utf8.Valid(data) {
		p.errorf(top, "a lab is text of at most %d KiB, in UTF-8", maxFile>>10)
		return nil
	}
	var doc yaml.Node
	err := yaml.NewDecoder(bytes.NewReader(data)).Decode(&doc)
	switch {
	case errors.Is(err, io.EOF) || err == nil && len(doc.Content) == 0:
		p.errorf(top, "there is nothing in it")
	case err != nil:
		line := 1
		text := strings.TrimPrefix(err.Error(), "yaml: ")
		if rest, ok := strings.CutPrefix(text, "line "); ok {
			if n, err := fmt.Sscanf(rest, "%d:", &line); n == 1 && err == nil {
				_, text, _ = strings.Cut(rest, ": ")
			}
		}
		p.errorf(&yaml.Node{Line: line, Column: 1}, "%s", text)
	default:
		return doc.Content[0]
	}
	return nil
}

// value reads a node into v. what names it for messages.
func (p *parser) value(n *yaml.Node, v reflect.Value, what string) {
	if n.Tag == "!!null" {
		return // as if the key were not there
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		p.value(n, v.Elem(), what)
	case reflect.Struct:
		if p.is(n, yaml.MappingNode, what, "a mapping") {
			p.fields(n, v, what)
		}
	case reflect.Map:
		if !p.is(n, yaml.MappingNode, what, "a mapping") {
			return
		}
		v.Set(reflect.MakeMap(v.Type()))
		for i := 0; i+1 < len(n.Content); i += 2 {
			e := reflect.New(v.Type().Elem()).Elem()
			p.value(n.Content[i+1], e, n.Content[i].Value)
			v.SetMapIndex(reflect.ValueOf(n.Content[i].Value).Convert(v.Type().Key()), e)
		}
	case reflect.Slice:
		if !p.is(n, yaml.SequenceNode, what, "a list") {
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
		for i, item := range n.Content {
			p.value(item, v.Index(i), what)
		}
	default:
		if !p.is(n, yaml.ScalarNode, what, "a single value") {
			return
		}
		if v.Kind() == reflect.String {
			v.SetString(n.Value)
		} else if err := n.Decode(v.Addr().Interface()); err != nil {
			p.errorf(n, "%s: %q is not %s", what, n.Value, map[reflect.Kind]string{reflect.Int: "a whole number", reflect.Bool: "true or false"}[v.Kind()])
		}
	}
}

func (p *parser) is(n *yaml.Node, kind yaml.Kind, what, want string) bool {
	if n.Kind != kind {
		p.errorf(n, "%s is not %s", what, want)
	}
	return n.Kind == kind
}

// fields reads the keys of a mapping into those of a struct.
func (p *parser) fields(n *yaml.Node, v reflect.Value, what string) {
	known := make(map[string]int)
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		if v.Type().Field(i).IsExported() {
			known[name] = i
		}
	}
	seen := make(map[string]bool)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		field, ok := known[key.Value]
		switch {
		case !ok:
			names := make([]string, 0, len(known))
			for name := range known {
				names = append(names, name)
			}
			slices.Sort(names)
			hint := fmt.Sprintf("there are %s", strings.Join(names, ", "))
			if near := spell.Nearest(key.Value, names, max(2, len(key.Value)/3+1)); near != "" && len(key.Value) <= 32 {
				hint = fmt.Sprintf("did you mean %q?", near)
			}
			p.errorf(key, "%s has no %q; %s", what, key.Value, hint)
		case seen[key.Value]:
			p.errorf(key, "%q stands there twice", key.Value)
		default:
			seen[key.Value] = true
			p.value(n.Content[i+1], v.Field(field), key.Value)
		}
	}
}

// place is where a row stands, and in it a step; below 0: none.
func place(root *yaml.Node, row, step int) *yaml.Node {
	n := root
	for _, at := range []struct {
		key   string
		index int
	}{{"variants", row}, {"steps", step}} {
		if at.index < 0 {
			break
		}
		list := child(n, at.key)
		if list == nil || at.index >= len(list.Content) {
			break
		}
		n = list.Content[at.index]
	}
	return n
}

func child(n *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}
