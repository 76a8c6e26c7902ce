package document

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"tcpbox/policy"
	"tcpbox/policy/knob"
	"tcpbox/policy/spell"
)

// ParseWords reads what a command line may say of a document, a word each:
//
//	fin-timeout=5s  stack.syn-backlog=16   [LEG.]KEY=VALUE of tcp
//	net=none
//	limits.connections=1000
//	net.ipv4.tcp_rfc1337=1                 a sysctl
//
// Of several that set the same the last holds. source is that of each setting. The
// error joins all faults, each a *knob.Error.
func ParseWords(words []string, source string) (Document, error) {
	var d Document
	var errs []error
	for _, word := range words {
		errs = append(errs, d.add(word, source))
	}
	if err := errors.Join(errs...); err != nil {
		return Document{}, err
	}
	return d, nil
}

func (d *Document) add(word, source string) error {
	name, value, _ := strings.Cut(word, "=")
	limit, isLimit := strings.CutPrefix(name, "limits.")
	switch {
	case !strings.Contains(word, "="):
		return &knob.Error{Input: word, Message: "it has no value", Hint: "a setting is KEY=VALUE or LEG.KEY=VALUE, such as stack.fin-timeout=5s"}
	case name == "net":
		net, err := policy.ParseNet(value)
		if err != nil {
			return &knob.Error{Input: word, Message: fmt.Sprintf("%q is not a value of net", value), Hint: "net is none, public or all"}
		}
		d.Net = &net
	case isLimit:
		return d.Limits.set(limit, value, word)
	case knob.IsSysctl(name):
		s, err := knob.ParseSysctl(word)
		if err != nil {
			return err
		}
		d.Sysctls = slices.DeleteFunc(d.Sysctls, func(old knob.Sysctl) bool { return old.Name == s.Name })
		s.Source = source
		d.Sysctls = append(d.Sysctls, s)
	case find(sections, name) != nil:
		return &knob.Error{Input: word, Message: name + " is no single value", Hint: "write it into a document, and put that in force with --policy FILE"}
	default:
		s, err := knob.ParseSetting(word)
		if err != nil {
			return err
		}
		s.Source = source
		d.TCP = append(d.TCP, s)
	}
	return nil
}

// set sets the limit called name; word is for messages.
func (l *Limits) set(name, value, word string) error {
	var names []string
	for _, k := range LimitKeys {
		if k.Name == name {
			n, ok := k.parse(value)
			if !ok {
				return &knob.Error{Input: word, Message: k.wrong(value), Hint: k.hint()}
			}
			*k.field(l) = n
			return nil
		}
		names = append(names, "limits."+k.Name)
	}
	hint := "the limits are " + strings.Join(names, ", ")
	if near := spell.Nearest("limits."+name, names, 4); near != "" && len(name) <= 64 {
		hint = "did you mean " + near + "?"
	}
	return &knob.Error{Input: word, Message: fmt.Sprintf("there is no limit %q", name), Hint: hint}
}
