package sockwatch

import "testing"

func BenchmarkReadOffsets(b *testing.B) {
	for b.Loop() {
		if _, err := readOffsets(); err != nil {
			b.Skip(err)
		}
	}
	b.ReportAllocs()
}
