package document

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
)

// Fault is one thing that is wrong with a document, and where.
type Fault struct {
	File         string // as it was given to Parse; may be empty
	Line, Column int    // from 1; the column counts characters
	Message      string // what is wrong
	Hint         string // what to write instead; may be empty
}

// Error returns the place and the message, without the hint, on one line:
// "box.yaml:4:3: ...".
func (f *Fault) Error() string {
	file := f.File
	if file == "" {
		file = "policy"
	}
	return fmt.Sprintf("%s:%d:%d: %s", file, f.Line, f.Column, f.Message)
}

// reader collects the faults of one document.
type reader struct {
	file   string
	faults []*Fault
	knobs  map[string]key // of tcp, by their names
}

func (p *reader) fault(line, column int, hint, format string, args ...any) {
	p.faults = append(p.faults, &Fault{File: p.file, Line: line, Column: column, Message: fmt.Sprintf(format, args...), Hint: hint})
}

// at is fault for a node.
func (p *reader) at(n *node, hint, format string, args ...any) {
	p.fault(n.line, n.column, hint, format, args...)
}

// source says where a line is, as Setting.Source and the like have it.
func (p *reader) source(line int) string {
	if p.file == "" {
		return fmt.Sprintf("line %d", line)
	}
	return fmt.Sprintf("%s:%d", p.file, line)
}

// err joins the faults in the order of their places.
func (p *reader) err() error {
	slices.SortStableFunc(p.faults, func(a, b *Fault) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	var errs []error
	for _, f := range p.faults {
		errs = append(errs, f)
	}
	return errors.Join(errs...)
}
