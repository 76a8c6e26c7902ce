package view

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tcpbox/stack/legs"
)

// golden compares with a file in testdata/ladder.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata/ladder", name)
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil { //nolint:gosec // it is for everybody
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs; go test -update rewrites it. It is\n%s", name, got)
	}
}

// TestLadders draws each of the plays and compares with the pictures that are
// kept, which somebody has looked at.
func TestLadders(t *testing.T) {
	for _, row := range plays {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			p := newPlay(t)
			row.run(p)
			lad := p.ladder()
			file := strings.ReplaceAll(row.name, " ", "-")
			golden(t, file+".txt", Ladder{}.Text(nil, lad))
			golden(t, file+".svg", Ladder{}.SVG(nil, lad))
			for _, l := range []Ladder{{}, {Teach: true}, {Netstat: true, Teach: true}} {
				checkPicture(t, l.draw(lad))
				checkXML(t, l.SVG(nil, lad))
				checkColumns(t, l, lad)
			}
			switch row.name {
			case "the guest closes first", "merged FIN+ACK", "lost data":
				golden(t, file+".teach.txt", Ladder{Teach: true}.Text(nil, lad))
				golden(t, file+".teach.svg", Ladder{Teach: true}.SVG(nil, lad))
				golden(t, file+".mmd", Ladder{}.Mermaid(nil, lad))
			case "refused":
				golden(t, file+".decode.txt", Ladder{Decode: true, ASCII: true}.Text(nil, lad))
			}
		})
	}
}

// checkPicture looks whether all texts are within the picture, none overlaps
// another, and none is crossed by an arrow or a rail.
func checkPicture(t *testing.T, p *picture) {
	t.Helper()
	for i, a := range p.texts {
		left, top, right, bottom := a.box()
		if left < 0 || top < 0 || right > p.width || bottom > p.height {
			t.Errorf("%q is clipped: %v,%v to %v,%v in %v x %v", a.text, left, top, right, bottom, p.width, p.height)
		}
		for _, b := range p.texts[i+1:] {
			l, tp, r, bt := b.box()
			if left < r && l < right && top < bt && tp < bottom {
				t.Errorf("%q overlaps %q", a.text, b.text)
			}
		}
		for _, line := range p.lines {
			if crosses(line, left, top+2, right, bottom-3) {
				t.Errorf("%q is crossed by a line of class %s", a.text, line.class)
			}
		}
	}
}

// crosses reports whether a line goes through a box.
func crosses(l svgLine, left, top, right, bottom float64) bool {
	const steps = 400
	for i := range steps + 1 {
		f := float64(i) / steps
		x, y := l.x1+(l.x2-l.x1)*f, l.y1+(l.y2-l.y1)*f
		if x > left && x < right && y > top && y < bottom {
			return true
		}
	}
	return false
}

func checkXML(t *testing.T, svg []byte) {
	t.Helper()
	d := xml.NewDecoder(bytes.NewReader(svg))
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatalf("the picture is no XML: %v", err)
		}
	}
}

// checkColumns looks whether the rails of the text stand in their columns, and
// ASCII is ASCII.
func checkColumns(t *testing.T, l Ladder, lad *legs.Ladder) {
	t.Helper()
	l.ASCII = true
	var rails [2]int
	for line := range strings.Lines(string(l.Text(nil, lad))) {
		if strings.ContainsFunc(line, func(r rune) bool { return r > '~' }) {
			t.Errorf("not ASCII: %q", line)
		}
		left, right := strings.Index(line, "|"), strings.LastIndex(line, "|")
		if left < 0 {
			continue
		}
		if rails == [2]int{} {
			rails = [2]int{left, right}
		}
		if rails != [2]int{left, right} {
			t.Errorf("the rails are not in columns %d: %s", rails, line)
		}
	}
}

func TestColorChangesNoColumn(t *testing.T) {
	p := newPlay(t)
	p.open()
	p.merge()
	lad := p.ladder()
	plain, colored := Ladder{}.Text(nil, lad), Ladder{Color: true}.Text(nil, lad)
	if bytes.Equal(plain, colored) {
		t.Error("no colours")
	}
	stripped := string(colored)
	for {
		before, rest, found := strings.Cut(stripped, "\x1b[")
		if !found {
			break
		}
		_, after, _ := strings.Cut(rest, "m")
		stripped = before + after
	}
	if stripped != string(plain) {
		t.Errorf("without its colours it is\n%s", stripped)
	}
}
