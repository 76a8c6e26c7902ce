package lab

// claimsClosing are the claims about closing one.
var claimsClosing = []Claim{
	{
		sectionClosing, "A close takes four segments.", HalfTrue,
		"Each direction has its own FIN and its own ACK, so it does where they go one by one: the client sends {1w} segments from SYN to " +
			"last ACK, the server {2w}. Where its ACK and FIN go as one the server sends {3w}, and the close has three. And it may be no more " +
			"than {4w} RST.",
		[]Shown{
			{"teardown", "client-first", "guest.segments", 4, 0},
			{"teardown", "client-first", "stack.segments", 3, 0},
			{"teardown", "merged", "stack.segments", 2, 0},
			{"teardown", "linger-0", "guest.RST+ACK", 1, 0},
			{"teardown", "always-four", "guest.RST+ACK", 1, 0},
		},
	},
	{
		sectionClosing, "A capture of a close often shows three segments.", True,
		"Nothing is lost then. An ACK may wait for a moment; if the program closes within it, ACK and FIN go as {1w} segment, and the " +
			"client goes from FIN-WAIT-1 to TIME-WAIT at once: FIN-WAIT-2 is {2x} entered.",
		[]Shown{{"teardown", "merged", "stack.FIN+ACK", 1, 0}, {"teardown", "merged", "guest.FIN-WAIT-2", 0, 0}},
	},
	{
		sectionClosing, "Every close() gives FIN, ACK, FIN, ACK.", False,
		"One with nothing unread does: {1w} FIN and {2w} RST. With 1,000 bytes that the program has not read there is {3w} FIN, and {4w} " +
			"RST; with SO_LINGER 0 too, {5w} FIN and {6w} RST, whatever was read.",
		[]Shown{
			{"rst-vs-fin", "every-close", "sent.guest.FIN", 1, 0},
			{"rst-vs-fin", "every-close", "sent.guest.RST", 0, 0},
			{"rst-vs-fin", "unread", "sent.guest.FIN", 0, 0},
			{"rst-vs-fin", "unread", "sent.guest.RST", 1, 0},
			{"rst-vs-fin", "linger-0", "sent.guest.FIN", 0, 0},
			{"rst-vs-fin", "linger-0", "sent.guest.RST", 1, 0},
		},
	},
	{
		sectionClosing, "After a FIN nothing can be sent to whoever sent it.", HalfTrue,
		"A FIN ends one direction. After shutdown the other end may answer for as long as it likes: the client has read the answer when it " +
			"enters TIME-WAIT, {1x}. After close nobody reads any more, and bytes that come are answered with {2w} RST.",
		[]Shown{{"teardown", "half-close", "guest.TIME-WAIT", 1, 0}, {"rst-vs-fin", "bytes-after-close", "sent.guest.RST", 1, 0}},
	},
	{
		sectionClosing, "CLOSING is a state that every connection goes through.", False,
		"Only where both FINs are under way at once: then both ends are in it {1x}, and both hold TIME-WAIT, {2s}. Where one FIN has " +
			"arrived before the other is sent, they {3x} are.",
		[]Shown{
			{"simultaneous-close", "crossing", "guest.CLOSING", 1, 0},
			{"simultaneous-close", "crossing", "stack.TIME-WAIT.ms", 60000, 0},
			{"simultaneous-close", "not-crossing", "guest.CLOSING", 0, 0},
		},
	},
	{
		sectionClosing, "A connection goes through all eleven states.", False,
		"It goes one way through the diagram: {1w} states for who opens and closes first, {2w} for who accepts and closes second. To enter all " +
			"{3w} takes three connections, on this machine's kernel too, {4w}; without one whose FINs cross there are {5w}.",
		[]Shown{
			{"all-states", "one-connection", "guest.states", 6, 0},
			{"all-states", "one-connection", "stack.states", 5, 0},
			{"all-states", "three-connections", "stack.states", 11, 0},
			{"all-states-kernel", "three-connections", "entered.guest", 11, 0},
			{"all-states-kernel", "no-crossing", "entered.guest", 10, 0},
		},
	},
}
