package contain

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// ErrNoChromium says that no browser was found: install the distribution's
// chromium package (on Debian also chromium-headless-shell), or name the
// binary in SALLYPORT_CHROMIUM.
var ErrNoChromium = errors.New("no chromium found")

// Where distributions keep the browser itself. The command in /usr/bin is a
// script that adds extensions and API keys; it is never used.
var chromiumPlaces = map[string][]string{
	"shell": {
		"/usr/lib/chromium/chromium-headless-shell",  // Debian
		"/usr/lib64/chromium-browser/headless_shell", // Fedora
		"/usr/lib/chromium-browser/headless_shell",   //
		"/usr/lib64/chromium/headless_shell",         // openSUSE
		"/opt/chrome-headless-shell-linux64/chrome-headless-shell",
		"/opt/google/chrome-headless-shell/chrome-headless-shell",
	},
	"full": {
		"/usr/lib/chromium/chromium",                   // Debian, Arch, Alpine
		"/usr/lib/chromium-browser/chromium-browser",   // older Debian and Ubuntu
		"/usr/lib64/chromium-browser/chromium-browser", // Fedora
		"/usr/lib64/chromium/chromium",                 // openSUSE
		"/usr/lib/chromium/chrome",
		"/opt/google/chrome/chrome",
		"/opt/chrome-linux64/chrome",
	},
}

// FindChromium locates the browser binary of a kind, "shell" (headless shell)
// or "full". SALLYPORT_CHROMIUM, an absolute path, overrides both; it is the
// operator's word and is still refused if it is a script.
func FindChromium(kind string) (string, error) {
	places, ok := chromiumPlaces[kind]
	if !ok {
		return "", fmt.Errorf("%w: unknown kind %q", ErrNoChromium, kind)
	}
	if p := os.Getenv("SALLYPORT_CHROMIUM"); p != "" {
		if !filepath.IsAbs(p) {
			return "", fmt.Errorf("%w: SALLYPORT_CHROMIUM is not an absolute path", ErrNoChromium)
		}
		if err := elf(p); err != nil {
			return "", fmt.Errorf("%w: SALLYPORT_CHROMIUM: %w", ErrNoChromium, err)
		}
		return resolved(p)
	}
	for _, p := range places {
		if elf(p) == nil {
			return resolved(p)
		}
	}
	return "", fmt.Errorf("%w: kind %s: looked in %s", ErrNoChromium, kind, strings.Join(places, ", "))
}

func resolved(p string) (string, error) { return filepath.EvalSymlinks(p) }

// elf refuses what is not an executable binary, above all wrapper scripts.
func elf(p string) error {
	st, err := os.Stat(p)
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() || st.Mode()&0o111 == 0 {
		return fmt.Errorf("%s: not an executable file", p)
	}
	f, err := os.Open(p)
	if err != nil {
		return err
	}
	defer f.Close()
	var magic [4]byte
	if _, err := f.Read(magic[:]); err != nil || string(magic[:]) != "\x7fELF" {
		return fmt.Errorf("%s: a script or no ELF binary; name the browser itself", p)
	}
	return nil
}
