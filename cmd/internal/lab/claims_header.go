package lab

// claimsHeader are the claims about numbers and headers.
var claimsHeader = []Claim{
	{
		sectionHeader, "The acknowledgement number is the sequence number plus 1.", HalfTrue,
		"For a SYN and for a FIN, which take one number each. Data takes as many as it has bytes: {1w} bytes of the client and {2} of the " +
			"server were acknowledged with their own numbers. An ACK without data takes none.",
		[]Shown{
			{"handshake", "ack-is-seq-plus-1", "guest.payload", 6, 0},
			{"handshake", "ack-is-seq-plus-1", "stack.payload", 1000, 0},
		},
	},
	{
		sectionHeader, "A server's large response goes out in segments, each acknowledged.", HalfTrue,
		"It goes out in segments, {1w} for {2} bytes, and each may be acknowledged. None has to be by itself: an ACK says that all before " +
			"its number has arrived. Of the ten ACKs {3w} were lost, and nothing was sent again.",
		[]Shown{
			{"handshake", "large-response", "stack.ACK", 10, 0},
			{"handshake", "large-response", "stack.payload", 14000, 0},
			{"handshake", "large-response", "guest.lost", 9, 0},
		},
	},
	{
		sectionHeader, "The header has 6 flags and 6 reserved bits.", False,
		"It has {1w} flags and {2w} reserved bits: CWR and ECE took two of them (RFC 3168).",
		[]Shown{
			{decoded, "", "flags", 8, 0},
			{decoded, "", "reserved", 4, 0},
		},
	},
	{
		sectionHeader, "The last 16 bits of the header are an offset.", HalfTrue,
		"They are the urgent pointer, {1} bits, which counts from the sequence number and is valid with URG alone. What is called the data " +
			"offset has {2w} bits, and says how long the header is, in words of 32 bits.",
		[]Shown{
			{decoded, "", "urgent pointer", 16, 0},
			{decoded, "", "data offset", 4, 0},
		},
	},
	{
		sectionHeader, "The options are 32 bits.", False,
		"They are 0 to 40 bytes. A SYN had {1}, for the largest segment, SACK, timestamps and the scale of the window; the ACK behind it " +
			"{2}, for timestamps; an RST {3w} option.",
		[]Shown{
			{"handshake", "three-segments", "guest.options.most", 20, 0},
			{"handshake", "three-segments", "guest.options.least", 12, 0},
			{"handshake", "refused", "stack.options.most", 0, 0},
		},
	},
}
