package packet

// ParseTCP reads a TCP header with its options, from which an IP header and the
// payload were cut off. It returns the ports too. b ends with the header, or is
// longer.
func ParseTCP(b []byte) (src, dst uint16, h TCPHeader, err error) {
	var p Packet
	if len(b) < 20 {
		return 0, 0, h, ErrTruncated
	}
	p.Len = len(b)
	if err := p.tcp(b, false); err != nil {
		return 0, 0, h, err
	}
	return be16(b), be16(b[2:]), p.TCP, nil
}

// Option is one option of a TCP header as it stands there.
type Option struct {
	Kind uint8
	Data []byte // behind kind and length; nil for end and no-operation
}

// The kinds of options that are known here (IANA "TCP Option Kind Numbers").
const (
	OptionEnd           = optEnd
	OptionNop           = optNop
	OptionMSS           = optMSS
	OptionWindowScale   = optWScale
	OptionSACKPermitted = optSACKPermitted
	OptionSACK          = optSACK
	OptionTimestamps    = optTimestamps
)

// TCPOptions lists the options of a TCP header, those behind the end of the
// list not, and how many bytes at its end are malformed.
func TCPOptions(header []byte) (options []Option, bad int) {
	if len(header) <= 20 {
		return nil, 0
	}
	o := header[20:min(len(header), max(20, int(header[12]>>4)*4))]
	for len(o) > 0 {
		switch {
		case o[0] == optEnd:
			return append(options, Option{Kind: optEnd}), 0
		case o[0] == optNop:
			options = append(options, Option{Kind: optNop})
			o = o[1:]
		case len(o) < 2 || o[1] < 2 || int(o[1]) > len(o):
			return options, len(o)
		default:
			options = append(options, Option{Kind: o[0], Data: o[2:o[1]]})
			o = o[o[1]:]
		}
	}
	return options, 0
}
