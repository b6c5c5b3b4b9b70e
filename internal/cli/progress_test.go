package cli_test

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sallyport-dev/sallyport/internal/cli"
)

// A run on a terminal of 40 columns writes its bar over itself: what is longer than a
// line would leave one behind at each trial. What failed is said whole.
func TestProgressOnANarrowTerminal(t *testing.T) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	fd := int(master.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 40})
	}
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	name := strings.Repeat("a-long-name-", 5)
	say, done := cli.Progress(slave)
	say("0 of 0 passed")
	say("-1 of 2 passed")
	say("1 of 2, 3s left: " + name + " passed")
	say("2 of 2, 0s left: " + name + "é failed: it did nothing")
	done()
	if _, err := slave.WriteString("END"); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for b := make([]byte, 4096); !bytes.Contains(out.Bytes(), []byte("END")); {
		n, err := master.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(b[:n])
	}
	for i, part := range strings.Split(out.String(), "\r\x1b[K") {
		bar, whole, _ := strings.Cut(part, "\n")
		if strings.HasPrefix(bar, "[") && len([]rune(bar)) >= 40 || strings.HasPrefix(whole, "[") && len([]rune(whole)) >= 40 {
			t.Errorf("part %d does not fit: %q", i, part)
		}
	}
	if !strings.Contains(out.String(), name+"é failed: it did nothing") {
		t.Errorf("what failed is not said: %q", out.String())
	}
}
