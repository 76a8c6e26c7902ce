package guest

import (
	"reflect"
	"strings"
	"testing"
)

func TestParseMounts(t *testing.T) {
	const text = `22 27 0:21 / /proc rw,nosuid shared:12 - proc proc rw
23 27 0:22 / /a\040b\134 rw - sysfs sysfs rw
24 27 0:22 / /many rw shared:1 master:2 propagate_from:3 - ext4 /dev/x rw
short line
x 27 0:22 / /bad rw - ext4 /dev/x rw
25 27 0:22 / /none rw shared:1 ext4 /dev/x rw
`
	want := []mountPoint{{22, "/proc", "proc"}, {23, `/a b\`, "sysfs"}, {24, "/many", "ext4"}}
	if got := parseMounts(text); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// escape is the inverse of unescape, as the kernel writes it.
func escape(s string) string {
	return strings.NewReplacer(" ", `\040`, "\t", `\011`, "\n", `\012`, `\`, `\134`).Replace(s)
}

func FuzzUnescape(f *testing.F) {
	for _, s := range []string{"", "/", "/a b", `\`, `\04`, `\999`, "/tab\t/line\n", `/a\040b`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if got := unescape(escape(s)); got != s {
			t.Errorf("unescape(escape(%q)) = %q", s, got)
		}
		unescape(s)
		parseMounts(s)
	})
}

func TestCandidates(t *testing.T) {
	for _, row := range []struct {
		name string
		env  []string
		want string
	}{
		{"/bin/x", []string{"PATH=/a"}, "/bin/x"},
		{"./x", nil, "./x"},
		{"x", nil, "/usr/local/bin/x /usr/bin/x /bin/x"},
		{"x", []string{"A=b", "PATH=/a:/b", "PATH=/c"}, "/a/x /b/x"},
		{"x", []string{"PATH=:/a:"}, "./x /a/x ./x"},
		{"x", []string{"PATH="}, "./x"},
	} {
		if got := strings.Join(candidates(row.name, bytesOf(row.env)), " "); got != row.want {
			t.Errorf("candidates(%q, %q) = %q, want %q", row.name, row.env, got, row.want)
		}
	}
}

func TestBelow(t *testing.T) {
	for _, row := range []struct {
		path string
		want bool
	}{{"/dev", true}, {"/dev/pts", true}, {"/devices", false}, {"/", false}, {"/x/dev", false}} {
		if got := below(row.path, "/proc", "/dev"); got != row.want {
			t.Errorf("below(%q) = %v, want %v", row.path, got, row.want)
		}
	}
}
