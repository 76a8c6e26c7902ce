package lab

import (
	"bytes"
	"errors"
	"regexp"
	"strings"
	"testing"
)

// TestTheExampleIsALab parses and checks what docs/labs/writing.md shows.
func TestTheExampleIsALab(t *testing.T) {
	text := readPage(t, chapters+"/writing.md")
	example := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindStringSubmatch(text)
	if example == nil {
		t.Fatal("the page shows no lab")
	}
	l, err := Parse("mine.yaml", []byte(example[1]))
	if err != nil {
		t.Fatal(err)
	}
	if l.Name != "mine" || len(l.Variants) != 1 || len(l.Variants[0].Steps) != 4 || l.Variants[0].Steps[1].Open.Times != 5 {
		t.Errorf("the lab is %+v", l)
	}
}

// Every lab can be written down and read back.
func TestParseReadsWhatIsWritten(t *testing.T) {
	for _, l := range Labs() {
		var text bytes.Buffer
		if err := l.WriteJSON(&text); err != nil {
			t.Fatal(err)
		}
		back, err := Parse(l.Name+".json", text.Bytes())
		if err != nil {
			t.Errorf("%s: %v", l.Name, err)
			continue
		}
		if !equalJSON(t, back, l) {
			t.Errorf("%s is another lab after writing and reading", l.Name)
		}
	}
}

func TestParseSaysWhereTheFaultIs(t *testing.T) {
	const head = "name: x\nvariants:\n  - name: a\n    group: problem\n    steps:\n      - name: one\n"
	for _, tt := range []struct{ text, want string }{
		{"", "x.yaml:1:1: there is nothing in it"},
		{"[", "x.yaml:1:1: did not find"},
		{"- a", "x.yaml:1:1: lab is not a mapping"},
		{"name: [a]", "x.yaml:1:7: name is not a single value"},
		{"nam: a", `x.yaml:1:1: lab has no "nam"; did you mean "name"?`},
		{`"": true`, `x.yaml:1:1: lab has no ""; there are `},
		{"name: a\nname: b", `x.yaml:2:1: "name" stands there twice`},
		{head + "        connect: {times: x}", `x.yaml:7:26: times: "x" is not a whole number`},
		{head + "        open: {at_once: 3}", `x.yaml:7:25: at_once: "3" is not true or false`},
		{head + "        connect: {to: 'a:1', times: 0, close: client-close}", "x.yaml:6:9: row a: step one: 0 times"},
		{head + "        act: {on: b, do: dance}", `x.yaml:6:9: row a: step one: there is no thing to do called "dance"`},
		{head + "        wait: {}\n    after: {guest.close-waiting: 1}", `x.yaml:3:5: row a: nothing counts "guest.close-waiting"`},
		{head + "        wait: {}\n    faults: [drop ever]", "x.yaml:3:5: row a:"},
		{"name: x\nsettings: [fin-timeot=1s]\nvariants: []", "x.yaml:1:1: x: it has no rows"},
	} {
		_, err := Parse("x.yaml", []byte(tt.text))
		var fault *FileError
		if err == nil || !strings.Contains(err.Error(), tt.want) || !errors.As(err, &fault) {
			t.Errorf("Parse(%q) = %v, want %q", tt.text, err, tt.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("name: x\nvariants:\n  - {name: a, group: problem, steps: [{name: b, wait: {}}]}\n"))
	f.Add([]byte(`{"name":"x","peers":["web=http"],"settings":["net.ipv4.a=1"]}`))
	f.Add([]byte("a: &a [*a]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		l, err := Parse("x.yaml", text)
		if err != nil {
			return
		}
		if err := l.Check(); err != nil {
			t.Errorf("what was read is at fault: %v", err)
		}
		var b bytes.Buffer
		if err := l.WriteJSON(&b); err != nil {
			t.Fatal(err)
		}
		if _, err := Parse("x.json", b.Bytes()); err != nil && l.Where != OnStack {
			t.Errorf("%s\nis not read back: %v", b.String(), err)
		}
	})
}
