package lab

// What the labs' steps are put together from.

// ok is what is expected of a step that is done to one connection.
var ok = Figures{"ok": 1}

// toStack are the steps that make a connection from the guest to a host in the
// stack: the guest has it under "open", the stack under "accept".
func toStack(server string) []Step {
	return []Step{
		{Name: "listen", In: InStack, Listen: &Listen{At: server}},
		{Name: "open", Open: &Open{To: server, Times: 1}, Expect: ok},
		{Name: "accept", In: InStack, Accept: &Accept{At: server, Times: 1}, Expect: ok},
	}
}

// onKept does something to what a step has opened.
func onKept(name, on string, do Do, bytes int, f Figures) Step {
	if do != DoWrite && do != DoRead {
		bytes = 0
	}
	return Step{Name: name, Act: &Act{On: on, Do: do, Bytes: bytes}, Expect: f}
}

// inStack has the stack do a step.
func inStack(s Step) Step {
	s.In = InStack
	return s
}

// until waits for what is counted.
func until(name string, f Figures) Step { return Step{Name: name, Wait: &Wait{}, Expect: f} }

// after waits for so many milliseconds, and then for what is counted.
func after(name string, ms int, f Figures) Step {
	return Step{Name: name, Wait: &Wait{For: ms}, Expect: f}
}
