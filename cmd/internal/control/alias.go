package control

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A sandbox of a container is called by an identifier that nobody remembers. Its
// aliases lie beside its socket, one on a line.
const (
	aliasName  = "alias"
	maxAliases = 4 << 10 // bytes
)

// leastPrefix is how many bytes of an identifier have to be given.
const leastPrefix = 4

// SetAliases lets the sandbox be found by other names too, and by the beginning of
// one of them; see Find. It is called before Serve.
func (s *Server) SetAliases(names ...string) error {
	text := strings.Join(names, "\n") + "\n"
	for _, name := range names {
		if name == "" || strings.ContainsRune(name, '\n') || len(text) > maxAliases {
			return fmt.Errorf("control: %q cannot be a name of a sandbox", name)
		}
	}
	if err := os.WriteFile(filepath.Join(s.entry.dir, aliasName), []byte(text), 0o600); err != nil {
		return fmt.Errorf("control: %w", err)
	}
	return nil
}

func aliases(dir string) []string {
	f, err := os.OpenFile(filepath.Join(dir, aliasName), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxAliases))
	if err != nil {
		return nil
	}
	return strings.Fields(string(data))
}

// AmbiguousError says that a word means more than one sandbox.
type AmbiguousError struct {
	Word  string
	Names []string
}

func (e *AmbiguousError) Error() string {
	return fmt.Sprintf("%q means more than one sandbox: %s", e.Word, strings.Join(e.Names, ", "))
}

// Find returns the name of the live sandbox that word means: its name, one of its
// aliases, or the beginning of the name or of an alias of a sandbox that has
// aliases, if it is that of no other. ErrNotFound: there is none. The error may be
// an *AmbiguousError.
func Find(word string) (string, error) {
	dir, err := RuntimeDir()
	if err != nil {
		return "", err
	}
	names, err := live(dir)
	if err != nil || slices.Contains(names, word) {
		return word, err
	}
	var whole, begins []string
	for _, name := range names {
		others := aliases(filepath.Join(dir, name))
		if len(others) == 0 {
			continue
		}
		others = append(others, name)
		if slices.Contains(others, word) {
			whole = append(whole, name)
		}
		if len(word) >= leastPrefix && slices.ContainsFunc(others, func(o string) bool { return strings.HasPrefix(o, word) }) {
			begins = append(begins, name)
		}
	}
	found := whole
	if len(found) == 0 {
		found = begins
	}
	switch len(found) {
	case 0:
		return "", fmt.Errorf("control: %q: %w", word, ErrNotFound)
	case 1:
		return found[0], nil
	}
	return "", &AmbiguousError{word, found}
}

// removeAliases removes what SetAliases has written, if anything.
func (e *entry) removeAliases() error {
	err := os.Remove(filepath.Join(e.dir, aliasName))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
