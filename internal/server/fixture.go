package server

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/resource"
	"github.com/sallyport-dev/sallyport/internal/task"
)

// prepare makes the places. A trial is never in the fixture itself, where people work.
func (r *run) prepare(ctx context.Context) error {
	n := max(1, r.suite.Parallel)
	if r.suite.Fixture == nil {
		r.places = []place{{}}
		return nil
	}
	for i := range n {
		r.places = append(r.places, place{world: i + 1, routes: routes{}})
	}
	for _, admin := range []string{r.suite.Fixture.Estate, r.suite.Fixture.Provider} {
		if admin == "" {
			continue
		}
		b, err := post(ctx, admin+"/worlds?n="+strconv.Itoa(n))
		if err != nil {
			return err
		}
		var all []struct{ For, Address string }
		if err := json.Unmarshal(b, &all); err != nil || len(all) != n {
			return fmt.Errorf("fixture: %s does not say where its %d copies are", admin, n)
		}
		for i, x := range all {
			if err := r.places[i].routes.add(x.For, x.Address); err != nil {
				return err
			}
		}
	}
	return nil
}

// fixture puts a copy of the sample estate into the state that the scenario
// starts from. told is what tools shall say there.
func (r *run) fixture(ctx context.Context, sc resource.Scenario, seed uint64, world int) (told []task.Told, err error) {
	f := r.suite.Fixture
	if f == nil {
		return nil, nil
	}
	q := inWorld(world)
	if _, err := post(ctx, f.Estate+"/reset?"+q.Encode()); err != nil {
		return nil, err
	}
	q.Set("set", strings.Join(sc.Hostile, ","))
	q.Set("seed", strconv.FormatUint(seed, 10))
	if told, err = hostile(ctx, f.Estate, q); err != nil || f.Provider == "" {
		return told, err
	}
	q.Del("seed")
	q.Set("set", sc.Behaviour)
	if sc.Behaviour == "" {
		q.Set("set", "honest")
	}
	_, err = post(ctx, f.Provider+"/behaviour?"+q.Encode())
	return told, err
}

// Limits of what a fixture has tools say: a task's record has all of it.
const (
	maxTold  = 8
	maxItem  = 64      // bytes of a name
	maxWords = 4 << 10 // bytes of one
)

// hostile switches hostile content on in a copy of the estate. Of what it answers the words
// for descriptions of tools are taken: the estate's own servers must not say them, since
// they would be others than those that are certified.
func hostile(ctx context.Context, estate string, q url.Values) ([]task.Told, error) {
	b, err := post(ctx, estate+"/hostile?"+q.Encode())
	if err != nil {
		return nil, err
	}
	var on struct {
		Descriptions []task.Told `json:"descriptions"`
	}
	if err := json.Unmarshal(b, &on); err != nil && len(b) > 0 {
		return nil, fmt.Errorf("fixture: %s does not say what is on: %w", estate, err)
	}
	if n := len(on.Descriptions); n > maxTold {
		return nil, fmt.Errorf("fixture: %s has tools say %d things, and a task hears at most %d", estate, n, maxTold)
	}
	for _, x := range on.Descriptions {
		if x.Item == "" || len(x.Item) > maxItem || x.Tool == "" || len(x.Tool) > maxItem || x.Text == "" || len(x.Text) > maxWords {
			return nil, fmt.Errorf("fixture: descriptions: want item and tool of 1 to %d bytes and text of 1 to %d, not %.100q for %.100q with %d", maxItem, maxWords, x.Item, x.Tool, len(x.Text))
		}
	}
	return on.Descriptions, nil
}

func post(ctx context.Context, u string) ([]byte, error) { return ask(ctx, http.MethodPost, u) }

func ask(ctx context.Context, method, u string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, u, nil)
	if err != nil {
		return nil, err
	}
	resp, err := boundaryClient(nil).Do(req)
	if err != nil {
		return nil, fmt.Errorf("fixture: %w", err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 8<<20))
	if resp.StatusCode >= 300 {
		return nil, fmt.Errorf("fixture: %s answered %d: %.500s", u, resp.StatusCode, bytes.TrimSpace(b))
	}
	return b, err
}

// estate reads the state of a copy, if the scenario says something of it.
func (r *run) estate(ctx context.Context, sc resource.Scenario, world int) (state, error) {
	if len(sc.Expect.Only)+len(sc.Expect.State)+len(sc.Hostile) == 0 {
		return nil, nil
	}
	b, err := ask(ctx, http.MethodGet, r.suite.Fixture.Estate+"/state?"+inWorld(world).Encode())
	if err != nil {
		return nil, err
	}
	return readState(b)
}

// inWorld names a copy of the estate's sandbox.
func inWorld(world int) url.Values {
	return url.Values{"stage": {string(action.Sandbox)}, "world": {strconv.Itoa(world)}}
}
