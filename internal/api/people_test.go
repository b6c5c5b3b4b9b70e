package api_test

import (
	"bufio"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sallyport-dev/sallyport/internal/api/apitest"
	"github.com/sallyport-dev/sallyport/internal/resource"
)

// ask makes one request over a socket as another local user.
func ask(t *testing.T, socket string, uid int, method, path, person, body string) (status int, answer string) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		// The thread is somebody else from here on, and ends with the goroutine.
		runtime.LockOSThread()
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Error(err)
			return
		}
		f := os.NewFile(uintptr(fd), "socket")
		defer f.Close()
		if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); e != 0 {
			t.Error(e)
			return
		}
		if err := unix.Connect(fd, &unix.SockaddrUnix{Name: socket}); err != nil {
			t.Error(err)
			return
		}
		r, err := http.NewRequest(method, "http://sallyport"+path, strings.NewReader(body))
		if err != nil {
			t.Error(err)
			return
		}
		r.Header.Set("Sallyport-As", person)
		r.Header.Set("Content-Type", "application/json")
		if err := r.Write(f); err != nil {
			t.Error(err)
			return
		}
		resp, err := http.ReadResponse(bufio.NewReader(f), r)
		if err != nil {
			t.Error(err)
			return
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Error(err)
		}
		status, answer = resp.StatusCode, string(b)
	}()
	<-done
	return status, answer
}

// Every local user reaches the people's socket. Who is nobody's Person learns
// nothing; who is one acts as that one and as no other, whatever they say.
func TestPeoplesSocket(t *testing.T) {
	if os.Getuid() != 0 {
		t.Log("only root can ask as another user; run the tests as root to see this one")
		return
	}
	const nobody, stranger = 65534, 64000
	r := apitest.Start(t)
	if err := os.Chmod(filepath.Dir(r.Data), 0o711); err != nil {
		t.Fatal(err)
	}
	if status, answer := ask(t, r.People(), nobody, "GET", "/api/v1/tasks", "", ""); status != http.StatusForbidden || !strings.Contains(answer, "not_a_person") {
		t.Errorf("without a tenant: got %d %s", status, answer)
	}
	r.Apply(t)
	all, err := r.As("dana").Resources(t.Context(), resource.KindPerson, "dana")
	if err != nil {
		t.Fatal(err)
	}
	dana, err := resource.FromCanonical(all[0])
	if err != nil {
		t.Fatal(err)
	}
	dana.Spec.(*resource.PersonSpec).UnixUser = "nobody"
	r.ApplyPeople(t, dana)
	for _, c := range []struct {
		name                 string
		uid                  int
		method, path, person string
		body                 string
		status               int
		code                 string
	}{
		{"a_stranger_reads", stranger, "GET", "/api/v1/tasks", "", "", 403, "not_a_person"},
		{"a_stranger_names_a_person", stranger, "GET", "/api/v1/tasks", "dana", "", 403, "not_a_person"},
		{"a_stranger_kills", stranger, "POST", "/api/v1/revoke", "dana", `{"scope":"tenant/brightwell","reason":"x"}`, 403, "not_a_person"},
		{"a_person_reads", nobody, "GET", "/api/v1/tasks", "", "", 200, ""},
		{"a_person_is_another", nobody, "POST", "/api/v1/tasks", "ada", `{"capability":"reset-mfa"}`, 403, "not_this_person"},
		{"a_person_has_no_role", nobody, "PUT", "/api/v1/secrets/x", "dana", "secret", 403, "role_missing"},
		{"a_person_of_another_tenant", nobody, "GET", "/api/v1/tasks?tenant=other", "", "", 403, "not_a_person"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if status, answer := ask(t, r.People(), c.uid, c.method, c.path, c.person, c.body); status != c.status || !strings.Contains(answer, c.code) {
				t.Errorf("got %d %s, want %d %s", status, answer, c.status, c.code)
			}
		})
	}
}
