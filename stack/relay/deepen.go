package relay

// deepBytes is how deep the calls of a join are, by which bytes get through both
// ends: measured, and rounded up to what a stack of 16 KiB has room for.
const deepBytes = 12 << 10

// Deepen makes the stack of a goroutine as large as a join needs. A stack grows by
// being copied to one of twice the size, three times on the way there, and each
// time all that is on it is gone through: at the beginning, where nothing is, one
// copy costs a tenth of that. Who has a goroutine for each Join calls it first.
//
//go:noinline
func Deepen() byte {
	var frame [deepBytes]byte
	return frame[deepest()]
}

// deepest keeps the compiler from finding out that the frame is not needed.
//
//go:noinline
func deepest() int { return deepBytes - 1 }
