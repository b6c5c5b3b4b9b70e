package benign

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"image/png"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/estate/marks"
	"github.com/sallyport-dev/sallyport/test/rig"
)

// walk is one workflow as the harness gets it: in an argument, so that it is
// measured with the harness.
type walk struct {
	Name  string   `json:"name"`
	Steps []string `json:"steps"`
}

// told is what the harness says about one workflow, one JSON line each. It says
// how far it came; whether the work was done is told by others.
type told struct {
	Name string `json:"name"`
	// Step is the one that did not work, "" when all did.
	Step string `json:"step,omitempty"`
	Code string `json:"code,omitempty"` // stable code of a refusal
	Why  string `json:"why,omitempty"`
	// Seen are the marks on the last picture.
	Seen    []string `json:"seen"`
	Seconds float64  `json:"seconds"`
}

// patience bounds how long a mark is looked for. It is far above what it takes
// and only met by a control that is not there.
const patience = 20 * time.Second

// Walk is a Program: it does each workflow of its one argument and goes on with
// the next when a step does not work. Every workflow begins with the start page
// and, before it, with a wait of as many milliseconds as its place in the list,
// so that the ledger tells them apart. Steps are
//
//	press:MARK     a left click on it; right: middle: double: triple: hover: alike
//	see:MARK       looks until it is on the screen; gone:MARK until it is not
//	type:TEXT      \n and \t are keys, as in the product
//	key:CHORD      and key:CHORD*N, N times
//	drag:MARK DX,DY from the mark
//	scroll:DIRECTION AMOUNT [X Y]   zoom:X0,Y0,X1,Y1   home:
//	do:JSON        one action in the vendor's form
func Walk(ctx context.Context, args []string) error {
	var all []walk
	if err := json.Unmarshal([]byte(args[0]), &all); err != nil {
		return err
	}
	w := &walker{Hand: rig.NewHand()}
	for i, f := range all {
		t, start := told{Name: f.Name}, time.Now()
		for _, s := range append([]string{"begin:" + strconv.Itoa(i+1), "home:"}, f.Steps...) {
			code, err := w.step(ctx, s)
			if err != nil {
				t.Why = err.Error()
			}
			if t.Code = code; code != "" || err != nil {
				t.Step = s
				break
			}
		}
		if ms, err := w.See(ctx); err == nil {
			for _, m := range ms {
				t.Seen = append(t.Seen, m.Text)
			}
		}
		t.Seconds = time.Since(start).Seconds()
		b, err := json.Marshal(t)
		if err != nil {
			return err
		}
		fmt.Println(string(b))
	}
	return nil
}

type walker struct{ *rig.Hand }

// clicks are the steps that press a mark, by the vendor's name of the action.
var clicks = map[string]string{"press": "left_click", "right": "right_click", "middle": "middle_click", "double": "double_click",
	"triple": "triple_click", "hover": "mouse_move"}

func (w *walker) step(ctx context.Context, s string) (code string, err error) {
	kind, arg, _ := strings.Cut(s, ":")
	if click := clicks[kind]; click != "" {
		m, err := w.find(ctx, arg, true)
		if err != nil {
			return "", err
		}
		_, code, err = w.Do(ctx, map[string]any{"action": click, "coordinate": []int{m.X, m.Y}})
		return code, err
	}
	switch kind {
	case "begin":
		n, err := strconv.Atoi(arg)
		if err != nil {
			return "", err
		}
		return w.neutral(ctx, map[string]any{"type": "wait", "seconds": float64(n) / 1000})
	case "home":
		return w.neutral(ctx, map[string]any{"type": "home"})
	case "see", "gone":
		_, err := w.find(ctx, arg, kind == "see")
		return "", err
	case "still": // until it is where it was at the look before
		for before := (marks.Mark{}); ; {
			m, err := w.find(ctx, arg, true)
			if err != nil || m == before {
				return "", err
			}
			before = m
		}
	case "type":
		return w.Type(ctx, arg)
	case "key":
		chord, times, many := strings.Cut(arg, "*")
		n := 1
		if many {
			if n, err = strconv.Atoi(times); err != nil {
				return "", err
			}
		}
		for ; n > 0 && code == "" && err == nil; n-- {
			code, err = w.Key(ctx, chord)
		}
		return code, err
	case "drag":
		mark, by, _ := strings.Cut(arg, " ")
		m, err := w.find(ctx, mark, true)
		if err != nil {
			return "", err
		}
		var dx, dy int
		if _, err := fmt.Sscanf(by, "%d,%d", &dx, &dy); err != nil {
			return "", err
		}
		_, code, err = w.Do(ctx, map[string]any{"action": "left_click_drag", "start_coordinate": []int{m.X, m.Y}, "coordinate": []int{m.X + dx, m.Y + dy}})
		return code, err
	case "scroll":
		x, y := 640, 500
		var direction string
		var amount int
		if n, err := fmt.Sscan(arg, &direction, &amount, &x, &y); n < 2 {
			return "", err
		}
		_, code, err = w.Do(ctx, map[string]any{"action": "scroll", "coordinate": []int{x, y}, "scroll_direction": direction, "scroll_amount": amount})
		return code, err
	case "do":
		var in map[string]any
		if err := json.Unmarshal([]byte(arg), &in); err != nil {
			return "", err
		}
		_, code, err = w.Do(ctx, in)
		return code, err
	case "zoom":
		var r [4]int
		if _, err := fmt.Sscanf(arg, "%d,%d,%d,%d", &r[0], &r[1], &r[2], &r[3]); err != nil {
			return "", err
		}
		pic, code, err := w.Do(ctx, map[string]any{"action": "zoom", "region": r})
		if err == nil && code == "" {
			_, err = png.Decode(bytes.NewReader(pic))
		}
		return code, err
	}
	return "", fmt.Errorf("step %q is not known", s)
}

// find looks until a mark is on the screen, or until it is not.
func (w *walker) find(ctx context.Context, text string, want bool) (marks.Mark, error) {
	for end := time.Now().Add(patience); ; {
		ms, err := w.See(ctx)
		if err != nil {
			return marks.Mark{}, err
		}
		var found *marks.Mark
		for i := range ms {
			if ms[i].Text == text {
				found = &ms[i]
				break
			}
		}
		switch {
		case found != nil && want:
			return *found, nil
		case found == nil && !want:
			return marks.Mark{}, nil
		case time.Now().After(end):
			return marks.Mark{}, fmt.Errorf("%q on the screen is %t", text, !want)
		}
		select {
		case <-ctx.Done():
			return marks.Mark{}, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// neutral does one action in the neutral form.
func (w *walker) neutral(ctx context.Context, a map[string]any) (code string, err error) {
	b, err := json.Marshal(map[string]any{"actions": []any{a}})
	if err != nil {
		return "", err
	}
	status, body, err := w.Post(ctx, "/v1/actions", string(b))
	if err != nil {
		return "", err
	}
	var out struct {
		Code    string `json:"code"`
		Results []struct {
			Status string `json:"status"`
			Code   string `json:"code"`
		} `json:"results"`
	}
	if err := json.Unmarshal(body, &out); err != nil {
		return "", fmt.Errorf("status %d: %w", status, err)
	}
	if len(out.Results) != 1 {
		return out.Code, fmt.Errorf("status %d: %.200s", status, body)
	}
	return out.Results[0].Code, nil
}
