package apiserver

// A request gets a goroutine of its own, whose stack is small at first and is copied to one of twice the size whenever it is full: four times for
// a write, on the way to 32 KiB, which took a twentieth of all its time. Here it grows once, while there is little to copy.

// enoughStack is less than the stack that it makes, 32 KiB, by what callers of roomyStack have used already.
const enoughStack = 20 << 10

// roomyStack makes the caller's stack large enough for a request.
//
//go:noinline
func roomyStack() byte {
	var room [enoughStack]byte
	return touch(&room)
}

// touch keeps room from being left out.
//
//go:noinline
func touch(room *[enoughStack]byte) byte { return room[enoughStack/2] }
