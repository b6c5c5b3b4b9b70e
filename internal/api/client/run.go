package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/task"
)

// Streams are the harness's standard streams: the descriptors themselves are
// handed over.
type Streams struct{ In, Out, Err *os.File }

// Ended says how a run ended.
type Ended struct {
	Exit int // of the harness; -1 when a signal ended it
	Task task.Task
}

// stopWait is how long an interrupted run may take to say how it ended.
const stopWait = 40 * time.Second

// Run starts a harness for a task and waits for its end. When ctx ends, the
// server is told, and Run still waits for the task to be closed. started, if
// not nil, is called once the harness runs.
func (c *Client) Run(ctx context.Context, in api.LaunchRequest, s Streams, started func(task.Task)) (Ended, error) {
	if in.Tenant == "" {
		in.Tenant = c.tenant
	}
	raw, err := new(net.Dialer).DialContext(ctx, "unix", c.launchSocket())
	if err != nil {
		return Ended{}, &Unreachable{Path: c.launchSocket(), Err: err}
	}
	conn := raw.(*net.UnixConn)
	defer conn.Close()
	// A server that refuses early says why before it has read all.
	if err := sendLaunch(conn, in, s); err != nil && !errors.Is(err, unix.EPIPE) {
		return Ended{}, fmt.Errorf("launch: %w", err)
	}
	stop := context.AfterFunc(ctx, func() {
		conn.SetReadDeadline(time.Now().Add(stopWait))
		conn.CloseWrite()
	})
	defer stop()
	lines := bufio.NewReader(conn)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			if err == io.EOF {
				err = fmt.Errorf("the server went away")
			}
			return Ended{}, fmt.Errorf("run: %w", err)
		}
		var e api.LaunchEvent
		if err := json.Unmarshal(line, &e); err != nil {
			return Ended{}, fmt.Errorf("answer of the server: %w", err)
		}
		end, done, err := result(e)
		if done {
			return end, err
		}
		if started != nil && e.Task != nil {
			started(*e.Task)
		}
	}
}

func result(e api.LaunchEvent) (Ended, bool, error) {
	var out Ended
	if e.Task != nil {
		out.Task = *e.Task
	}
	out.Exit = e.Exit
	var err error
	if e.Problem != nil {
		err = &Refusal{Status: http.StatusForbidden, Problem: *e.Problem}
	}
	switch e.Event {
	case api.Started:
		return out, false, nil
	case api.Ended:
		return out, true, err
	case api.Refused:
		if err == nil {
			err = fmt.Errorf("the server refused and gave no reason")
		}
		return out, true, err
	}
	return out, true, fmt.Errorf("answer of the server: unknown event %q", e.Event)
}

// sendLaunch sends the descriptors with the first bytes, and then the rest.
func sendLaunch(c *net.UnixConn, in api.LaunchRequest, s Streams) error {
	b, err := json.Marshal(in)
	if err != nil {
		return err
	}
	b = append(b, '\n')
	n, _, err := c.WriteMsgUnix(b, unix.UnixRights(int(s.In.Fd()), int(s.Out.Fd()), int(s.Err.Fd())), nil)
	if err != nil {
		return err
	}
	if n < len(b) {
		_, err = c.Write(b[n:])
	}
	return err
}
