package knob

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// units are the letters behind a Size, the largest first.
var units = []struct {
	letter string
	bytes  int
}{{"G", 1 << 30}, {"M", 1 << 20}, {"k", 1 << 10}}

// parseSize reads 4096, 64k, 4M or 1G.
func parseSize(text string) (bytes int, message string) {
	digits, unit := text, 1
	for _, u := range units {
		if before, ok := strings.CutSuffix(text, u.letter); ok {
			digits, unit = before, u.bytes
		}
	}
	n, err := strconv.ParseUint(digits, 10, 31)
	if err != nil {
		return 0, fmt.Sprintf("%q is not a number of bytes, or too large for one", text)
	}
	return int(n) * unit, ""
}

// ParseSize reads a number of bytes: 4096, 64k, 4M or 1G.
func ParseSize(text string) (bytes int, err error) {
	bytes, message := parseSize(text)
	if message != "" {
		return 0, errors.New(message)
	}
	return bytes, nil
}

// FormatSize writes what ParseSize reads, as short as it can be without loss.
func FormatSize(bytes int) string { return formatSize(bytes) }

// formatSize writes what parseSize reads, with the largest unit that leaves a
// whole number.
func formatSize(bytes int) string {
	for _, u := range units {
		if bytes != 0 && bytes%u.bytes == 0 {
			return strconv.Itoa(bytes/u.bytes) + u.letter
		}
	}
	return strconv.Itoa(bytes)
}

// isName reports whether text can be the name of a module of the kernel.
func isName(text string) bool {
	for _, r := range text {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '_' {
			return false
		}
	}
	return text != "" && len(text) <= 15 // TCP_CA_NAME_MAX
}

// A PortRange is the ports from Low to Hi, both included.
type PortRange struct{ Low, Hi uint16 }

// PortList reads the value of a knob of type Ports. "none" has no ranges.
func PortList(text string) ([]PortRange, bool) {
	if text == "none" {
		return nil, true
	}
	if len(text) > 4096 {
		return nil, false
	}
	var ranges []PortRange
	for item := range strings.SplitSeq(text, ",") {
		low, hi, two := strings.Cut(item, "-")
		if !two {
			hi = low
		}
		l, errLow := strconv.ParseUint(low, 10, 16)
		h, errHi := strconv.ParseUint(hi, 10, 16)
		if errLow != nil || errHi != nil || l == 0 || l > h {
			return nil, false
		}
		ranges = append(ranges, PortRange{uint16(l), uint16(h)})
	}
	return ranges, true
}
