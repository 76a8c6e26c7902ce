package control

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// TestFind: a sandbox is found by its name, by its aliases, and by their beginnings
// where they are nobody else's; one without aliases by its whole name alone.
func TestFind(t *testing.T) {
	dir := runtimeDir(t)
	for name, aliases := range map[string][]string{
		"cni-aaaa1111": {"4f53cda18c2baa0c", "shop/web-1"},
		"cni-bbbb2222": {"4f53ffff00001111", "shop/web-2"},
		"cni-cccc3333": {"0123456789abcdef", "shop/web-1"}, // the pod is about to be replaced
		"make-4711":    nil,
	} {
		s, err := Reserve(name, nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(aliases) > 0 {
			if err := s.SetAliases(aliases...); err != nil {
				t.Fatal(err)
			}
		}
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(filepath.Join(dir, name)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s is left: %v", name, err)
			}
		})
	}
	for _, row := range []struct{ word, name string }{
		{"make-4711", "make-4711"},
		{"cni-bbbb2222", "cni-bbbb2222"},
		{"cni-bb", "cni-bbbb2222"},
		{"shop/web-2", "cni-bbbb2222"},
		{"4f53cda18c2baa0c", "cni-aaaa1111"},
		{"4f53c", "cni-aaaa1111"},
		{"0123", "cni-cccc3333"},
	} {
		if got, err := Find(row.word); got != row.name || err != nil {
			t.Errorf("Find(%q) = %q, %v, want %q", row.word, got, err, row.name)
		}
	}
	for _, word := range []string{"make", "make-47", "012", "shop/web-3", "nobody", ""} {
		if got, err := Find(word); !errors.Is(err, ErrNotFound) {
			t.Errorf("Find(%q) = %q, %v, want ErrNotFound", word, got, err)
		}
	}
	for _, word := range []string{"shop/web-1", "4f53", "shop/", "cni-"} {
		var several *AmbiguousError
		if got, err := Find(word); !errors.As(err, &several) || len(several.Names) < 2 {
			t.Errorf("Find(%q) = %q, %v, want an AmbiguousError", word, got, err)
		}
	}
}

func TestBadAliases(t *testing.T) {
	runtimeDir(t)
	s, err := Reserve("box", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, name := range []string{"", "a\nb", string(make([]byte, maxAliases))} {
		if err := s.SetAliases("good", name); err == nil {
			t.Errorf("SetAliases(%.10q) = nil", name)
		}
	}
}
