package statelog

import (
	"net/netip"
	"strconv"
	"time"
	"unicode/utf8"
)

// AppendJSON appends r as one line of the log, with its line end, and returns
// the extended buffer. It allocates only to extend it.
func AppendJSON(b []byte, r Record) []byte {
	b = append(b, `{"v":1,"time":"`...)
	b = appendTime(b, r.Time)
	b = append(b, `","sandbox":`...)
	b = appendString(b, r.Sandbox)
	if r.Dropped > 0 {
		b = append(b, `,"dropped":`...)
		b = strconv.AppendUint(b, r.Dropped, 10)
		return append(b, "}\n"...)
	}
	if r.Set != nil {
		b = append(b, `,"set":{`...)
		b = appendChange(b, r.Set)
		return append(b, "}}\n"...)
	}
	b = append(b, `,"conn":`...)
	b = strconv.AppendUint(b, uint64(r.Conn), 10)
	if r.Facts != nil {
		b = append(b, `,"facts":{`...)
		b = appendFacts(b, r.Facts)
		return append(b, "}}\n"...)
	}
	b = append(b, `,"leg":"`...)
	b = append(b, r.Leg.String()...)
	b = append(b, `","local":`...)
	b = appendAddrPort(b, r.Local)
	b = append(b, `,"remote":`...)
	b = appendAddrPort(b, r.Remote)
	b = append(b, `,"from":"`...)
	b = append(b, r.From.String()...)
	b = append(b, `","to":"`...)
	b = append(b, r.To.String()...)
	b = append(b, `","cause":"`...)
	b = append(b, r.Cause.Kind.String()...)
	if r.Cause.Which != "" {
		b = append(b, ' ')
		b = appendEscaped(b, r.Cause.Which)
	}
	b = append(b, `","source":"`...)
	b = append(b, r.Source.String()...)
	b = append(b, `","age":`...)
	b = appendSeconds(b, r.Age)
	return append(b, "}\n"...)
}

// MarshalJSON implements json.Marshaler with the line of AppendJSON.
func (r Record) MarshalJSON() ([]byte, error) {
	line := AppendJSON(nil, r)
	return line[:len(line)-1], nil
}

// appendTime appends t by RFC 3339 in UTC with all nine decimals, so that lines
// sort as text: 2006-01-02T15:04:05.000000000Z.
func appendTime(b []byte, t time.Time) []byte {
	const whole, nine = len("2006-01-02T15:04:05"), len("2006-01-02T15:04:05.000000000")
	begin := len(b)
	b = t.UTC().AppendFormat(b, time.RFC3339Nano) // which leaves zeros out
	b = b[:len(b)-len("Z")]
	if len(b)-begin == whole {
		b = append(b, '.')
	}
	for len(b)-begin < nine {
		b = append(b, '0')
	}
	return append(b, 'Z')
}

// appendAddrPort appends ap as a JSON string, the zero AddrPort as "".
func appendAddrPort(b []byte, ap netip.AddrPort) []byte {
	switch {
	case !ap.IsValid():
		return append(b, `""`...)
	case ap.Addr().Zone() != "": // free text
		return appendString(b, ap.String())
	}
	b = append(b, '"')
	b = ap.AppendTo(b)
	return append(b, '"')
}

// appendSeconds appends d as seconds with nine decimals.
func appendSeconds(b []byte, d time.Duration) []byte {
	n := uint64(d)
	if d < 0 {
		b = append(b, '-')
		n = -n
	}
	b = strconv.AppendUint(b, n/uint64(time.Second), 10)
	b = append(b, '.')
	fraction := n % uint64(time.Second)
	for unit := uint64(time.Second) / 10; unit > 0; unit /= 10 {
		b = append(b, byte('0'+fraction/unit%10))
	}
	return b
}

// appendString appends s as a JSON string.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	b = appendEscaped(b, s)
	return append(b, '"')
}

// appendEscaped appends s as it stands within a JSON string (RFC 8259, section
// 7), the way encoding/json does: bytes that are no UTF-8 become U+FFFD, and
// U+2028 and U+2029 are escaped because JavaScript once took them for line
// ends.
func appendEscaped(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	for i := 0; i < len(s); {
		if c := s[i]; c < utf8.RuneSelf {
			i++
			switch {
			case c == '"' || c == '\\':
				b = append(b, '\\', c)
			case c >= ' ':
				b = append(b, c)
			case c == '\b':
				b = append(b, `\b`...)
			case c == '\f':
				b = append(b, `\f`...)
			case c == '\n':
				b = append(b, `\n`...)
			case c == '\r':
				b = append(b, `\r`...)
			case c == '\t':
				b = append(b, `\t`...)
			default:
				b = append(b, `\u00`...)
				b = append(b, hex[c>>4], hex[c&0xf])
			}
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			b = append(b, `\ufffd`...)
		case r == '\u2028' || r == '\u2029':
			b = append(b, `\u202`...)
			b = append(b, hex[r&0xf])
		default:
			b = append(b, s[i:i+size]...)
		}
		i += size
	}
	return b
}
