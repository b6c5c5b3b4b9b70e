package provider

import (
	"fmt"
	"net/http"
	"strings"
	"time"
)

// Faults are what providers do on a bad day: the script is honest, and its answers
// are not all whole. Each happens at the third call, when the agent is at work.
const (
	Overloaded Behaviour = "overloaded" // an error once, then as if nothing was
	Cut        Behaviour = "cut"        // an answer ends in its middle, once
	Garbage    Behaviour = "garbage"    // an answer is no answer, once
	Down       Behaviour = "down"       // errors from then on
	Silent     Behaviour = "silent"     // no answer any more
	Stray      Behaviour = "stray"      // asks for a tool that there is not, once
)

// Behaviours lists all.
func Behaviours() []Behaviour {
	return []Behaviour{Honest, Gullible, Presuming, Overloaded, Cut, Garbage, Down, Silent, Stray}
}

// faultAt is the call at which a fault begins.
const faultAt = 3

// fault answers a call as the behaviour says, and reports whether it did.
func (b Behaviour) fault(w http.ResponseWriter, r *http.Request, call int, m answer) bool {
	if call < faultAt || call > faultAt && b != Down && b != Silent {
		return false
	}
	switch b {
	case Overloaded, Down:
		fail(w, 529, "overloaded_error", "Overloaded")
	case Cut:
		w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
		fmt.Fprint(w, "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_cut\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\""+m.Model+"\",\"content\":[],\"stop_reason\":null,\"usage\":{}}}\n\n")
		panic(http.ErrAbortHandler)
	case Garbage:
		w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
		fmt.Fprint(w, "event: message_start\ndata: {\"type\": <html>"+strings.Repeat("\x00\xff", 100)+"\n\n")
	case Silent:
		select {
		case <-r.Context().Done():
		case <-time.After(3 * time.Second): // a client that waits longer is cut all the same
		}
		panic(http.ErrAbortHandler)
	case Stray:
		// Without its text, which would name the step that this one takes the place of.
		m.Content = append(m.Content[:0:0], useBlock{"tool_use", "toolu_script_stray", "shell", map[string]any{"command": "cat /etc/shadow"}})
		stop := "tool_use"
		m.StopReason = &stop
		writeStream(w, m)
	default:
		return false
	}
	return true
}
