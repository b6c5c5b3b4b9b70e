package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/sallyport-dev/sallyport/internal/seal"
	"github.com/sallyport-dev/sallyport/internal/server"
)

// kekFlags name a key-encryption key.
type kekFlags struct {
	kind string
	fd   int
	new  bool // it will wrap, and does not yet
}

// addTo adds --kek and --passphrase-fd, or --new-kek and --new-passphrase-fd.
func (k *kekFlags) addTo(cmd *cobra.Command) {
	prefix, what := "", "what wraps the keys in the data folder"
	if k.new {
		prefix, what = "new-", "what shall wrap them"
	}
	f := cmd.PersistentFlags()
	f.StringVar(&k.kind, prefix+"kek", "file", what+": file, passphrase or unix:///path of a Kubernetes KMS v2 plugin")
	f.IntVar(&k.fd, prefix+"passphrase-fd", -1, "descriptor to read that passphrase from, instead of a systemd credential or the terminal")
}

// open makes the key-encryption key; nil is the key file.
func (k *kekFlags) open(e *env) (seal.KEK, error) {
	prefix := ""
	if k.new {
		prefix = "new-"
	}
	if k.fd >= 0 && k.kind != "passphrase" {
		return nil, usage("--%spassphrase-fd: is for --%[1]skek passphrase", prefix)
	}
	kek, err := server.ParseKEK(k.kind, func() ([]byte, error) { return k.passphrase(e, prefix) })
	var x *exit
	if err != nil && !errors.As(err, &x) {
		err = usage("--%skek: %v", prefix, err)
	}
	return kek, err
}

// passphrase is read from a descriptor, from systemd's credential, or from the
// terminal: all other ways can be read by others, or stay somewhere. The caller
// clears it.
func (k *kekFlags) passphrase(e *env, prefix string) ([]byte, error) {
	credential := filepath.Join(os.Getenv("CREDENTIALS_DIRECTORY"), "sallyport-"+prefix+"passphrase")
	switch {
	case k.fd >= 0:
		return lineOf(os.NewFile(uintptr(k.fd), "passphrase"))
	case filepath.IsAbs(credential):
		f, err := os.Open(credential)
		if err == nil {
			return lineOf(f)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	if !terminal(e.in) {
		return nil, usage("a passphrase is read from --%spassphrase-fd, a systemd credential sallyport-%[1]spassphrase or a terminal, and none is there", prefix)
	}
	ask := func(text string) ([]byte, error) {
		fmt.Fprintf(e.err, "%s (not shown): ", text)
		b, err := term.ReadPassword(int(e.in.(*os.File).Fd()))
		fmt.Fprintln(e.err)
		return b, err
	}
	if !k.new {
		return ask("Passphrase")
	}
	b, err := ask("New passphrase")
	if err != nil {
		return nil, err
	}
	again, err := ask("Again")
	defer clear(again)
	if err == nil && !bytes.Equal(b, again) {
		err = usage("these are two passphrases")
	}
	if err != nil {
		clear(b)
	}
	return b, err
}

// lineOf reads a passphrase into one piece of memory: a reader that grows would
// leave copies.
func lineOf(f *os.File) ([]byte, error) {
	if f == nil {
		return nil, usage("the descriptor of the passphrase is not open")
	}
	defer f.Close()
	buf := make([]byte, seal.MaxPassphrase+2)
	n, err := io.ReadFull(f, buf)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		clear(buf)
		return nil, usage("read the passphrase: %v", err)
	}
	return bytes.TrimSuffix(bytes.TrimSuffix(buf[:n], []byte("\n")), []byte("\r")), nil
}

// keysThere: the folder has keys, so it is one of a server.
func (e *env) keysThere() bool {
	for _, name := range []string{seal.FileName, seal.RingName} {
		if _, err := os.Stat(filepath.Join(e.data, name)); err == nil {
			return true
		}
	}
	return false
}

// openRoot opens the keys of a stopped server's folder.
func (e *env) openRoot(ctx context.Context) (*seal.Root, error) {
	kek, err := e.kek.open(e)
	if err != nil {
		return nil, err
	}
	if kek != nil {
		defer kek.Close()
	}
	root, _, err := server.OpenKeys(ctx, e.data, kek)
	return root, err
}

func rewrapCommand(e *env) *cobra.Command {
	to := kekFlags{new: true}
	cmd := &cobra.Command{
		Use: "rewrap", Short: "Wrap the keys of a stopped server by another key-encryption key",
		Long: `Wraps the keys in the data folder anew; no secret is touched. A key file becomes a
ring and is removed. What wrapped them before may be destroyed when this says done.
The server must be stopped. A KMS key that is exchanged at its KMS needs no command.`,
		Example: "  sallyport secret rewrap --data /var/lib/sallyport --new-kek unix:///run/kms/socket.sock",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !e.keysThere() {
				return usage("--data: %s holds no keys", e.data)
			}
			from, err := e.kek.open(e)
			if err != nil {
				return err
			}
			if from != nil {
				defer from.Close()
			}
			kek, err := to.open(e)
			if err != nil {
				return err
			}
			if kek == nil {
				return usage("--new-kek: want passphrase or a KMS plugin: keys are not taken out into a file")
			}
			defer kek.Close()
			st, err := server.Rewrap(cmd.Context(), e.data, from, kek)
			if err != nil {
				return err
			}
			return e.print(st, func(w io.Writer) {
				fmt.Fprintf(w, "done: the keys are wrapped by %s%s, and were opened again\n", plain(st.Kind), keyName(st.KeyID))
			})
		},
	}
	e.kek.addTo(cmd)
	to.addTo(cmd)
	return cmd
}

func keyName(id string) string {
	if id == "" {
		return ""
	}
	return " key " + plain(id)
}

func keysCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "keys", Short: "Say what wraps the server's keys, and whether it answers", Example: "  sallyport secret keys", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := e.client()
			if err != nil {
				return err
			}
			st, err := c.Keys(cmd.Context())
			if err != nil {
				return err
			}
			return e.print(st, func(w io.Writer) {
				fmt.Fprintf(w, "wrapped by  %s%s\n", plain(st.Kind), keyName(st.KeyID))
				if !st.Heard.IsZero() {
					fmt.Fprintf(w, "opened      %s\n", at(st.Heard))
				}
				if st.Why != "" {
					fmt.Fprintf(w, "failing     %s\n", plain(st.Why))
				}
				if st.Closed {
					fmt.Fprintln(w, "CLOSED      no secret opens until it answers")
				}
			})
		},
	}
}
