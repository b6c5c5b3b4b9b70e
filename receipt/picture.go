package receipt

import (
	"encoding/json"
	"fmt"
	"strings"
)

// pictures are the commitments of the pictures that agents were given, as the
// records say: by task. What a person did in a session is not its agent's.
type pictures map[string]map[string]bool

// record reads what a record says of pictures.
func (p pictures) record(r Record) {
	if r.Type != "action.decided" || !strings.HasPrefix(r.Actor, "agent:") {
		return
	}
	var evidence []struct {
		Name       string `json:"name"`
		Commitment string `json:"commitment"`
	}
	var body struct {
		Decision struct {
			Verdict string `json:"verdict"`
		} `json:"decision"`
	}
	// What cannot be read says nothing.
	if json.Unmarshal(r.Evidence, &evidence) != nil || json.Unmarshal(r.Body, &body) != nil || body.Decision.Verdict != "allow" {
		return
	}
	for _, e := range evidence {
		if e.Name == "screenshot" {
			if p[r.Task] == nil {
				p[r.Task] = map[string]bool{}
			}
			p[r.Task][e.Commitment] = true
		}
	}
}

// check looks for the picture that an approved statement names. It must be one
// that the agent of its task was given, if all records are there.
func (p pictures) check(statement []byte, complete bool) (found, named bool, err error) {
	var s struct {
		Task       string `json:"task"`
		Screenshot string `json:"screenshot"`
	}
	if json.Unmarshal(statement, &s) != nil || s.Screenshot == "" {
		return false, false, nil
	}
	found = p[s.Task][s.Screenshot]
	if !found && complete {
		return false, true, fmt.Errorf("the picture %s was not given to the agent of task %q", s.Screenshot, s.Task)
	}
	return found, true, nil
}
