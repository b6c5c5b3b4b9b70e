#!/bin/sh
# Installs what Sallyport runs besides itself, by the system's package manager:
#
#   scripts/deps.sh browser   Chromium's headless shell and a font: up, demo
#   scripts/deps.sh           the same, Chromium itself, PostgreSQL, OpenSSH, OpenLDAP's
#                             server, Glewlwyd, FUSE, SoftHSM, a C compiler, Node.js and npm: what the tests run for real
#
# Says nothing and changes nothing when everything is there. Exit status: 0 all
# there, 2 something is missing and could not be installed (what to do is said).
set -eu

want=${1:-all}
case $want in browser | all) ;; *) echo "usage: scripts/deps.sh [browser|all]" >&2; exit 2 ;; esac

exists() { for f in "$@"; do [ -e "$f" ] && return 0; done; return 1; }

# The places are those of internal/contain/chromium.go.
have_shell() {
	[ -n "${SALLYPORT_CHROMIUM:-}" ] || exists /usr/lib/chromium/chromium-headless-shell \
		/usr/lib64/chromium-browser/headless_shell /usr/lib/chromium-browser/headless_shell /usr/lib64/chromium/headless_shell \
		/opt/chrome-headless-shell-linux64/chrome-headless-shell /opt/google/chrome-headless-shell/chrome-headless-shell
}
have_full() {
	[ -n "${SALLYPORT_CHROMIUM:-}" ] || exists /usr/lib/chromium/chromium /usr/lib/chromium-browser/chromium-browser \
		/usr/lib64/chromium-browser/chromium-browser /usr/lib64/chromium/chromium /usr/lib/chromium/chrome \
		/opt/google/chrome/chrome /opt/chrome-linux64/chrome
}
have_font() { [ -n "$(find /usr/share/fonts /usr/local/share/fonts -name '*.[to]tf' 2>/dev/null | head -n 1)" ]; }
have_postgres() {
	exists /usr/lib/postgresql/*/bin/postgres /usr/pgsql-*/bin/postgres /usr/libexec/postgresql*/postgres || command -v postgres >/dev/null
}
# Root mounts by itself; others need the helper, and a device that is open to all
# (as every distribution's rules make it; a container without udev lacks them).
have_fuse() { [ "$(id -u)" = 0 ] || { command -v fusermount3 >/dev/null && [ -r /dev/fuse ] && [ -w /dev/fuse ]; }; }
# Node.js 18 or later, where a contained program can be (its clients run as agents).
have_node() {
	exists /usr/bin/node /usr/local/bin/node && command -v npm >/dev/null &&
		node -e 'process.exit(parseInt(process.versions.node) >= 18 ? 0 : 1)' >/dev/null 2>&1
}
have_ip() { PATH=$PATH:/usr/sbin:/sbin command -v ip >/dev/null; }
have_softhsm() { command -v softhsm2-util >/dev/null; }
have_cc() { command -v cc >/dev/null || command -v gcc >/dev/null; }
have_slapd() { exists /usr/sbin/slapd /usr/libexec/slapd /usr/lib/slapd /usr/lib/openldap/slapd /usr/libexec/openldap/slapd; }
have_glewlwyd() { command -v glewlwyd >/dev/null; }
have_ssh() { command -v ssh-keygen >/dev/null && command -v ssh-agent >/dev/null && { command -v sshd >/dev/null || exists /usr/sbin/sshd; }; }

missing() {
	have_shell || echo shell
	have_font || echo font
	[ "$want" = all ] || return 0
	have_full || echo full
	have_postgres || echo postgres
	have_ssh || echo ssh
	have_ip || echo ip
	have_fuse || echo fuse
	have_node || echo node
	have_softhsm || echo softhsm
	have_slapd || echo slapd
	have_glewlwyd || echo glewlwyd
	have_cc || echo cc
}

need=$(missing | tr '\n' ' ')
[ -n "$need" ] || exit 0

fail() {
	echo "deps: $1" >&2
	for n in $need; do
		case $n in
		shell) echo "  missing: Chromium's headless shell. Where the distribution has none: unpack chrome-headless-shell of
           \"Chrome for Testing\" as /opt/chrome-headless-shell-linux64, or name a Chromium binary (not its
           wrapper script) in SALLYPORT_CHROMIUM" ;;
		full) echo "  missing: Chromium, or Google Chrome in /opt/google/chrome; a snap cannot be contained" ;;
		font) echo "  missing: any TrueType font in /usr/share/fonts, e.g. DejaVu" ;;
		postgres) echo "  missing: the PostgreSQL server's programs (for tests; no running server is needed)" ;;
		ssh) echo "  missing: the OpenSSH client and the program of its server (for tests; no running server is needed)" ;;
		ip) echo "  missing: ip, of iproute2 (for tests)" ;;
		node) echo "  missing: Node.js 18 or later in /usr/bin or /usr/local/bin, and npm (for tests)" ;;
		softhsm) echo "  missing: SoftHSM 2 (for tests)" ;;
		cc) echo "  missing: a C compiler, cc (for tests: a plugin for PKCS #11 tokens)" ;;
		slapd) echo "  missing: the OpenLDAP server, slapd (for tests; no running server is needed)" ;;
		glewlwyd) echo "  missing: Glewlwyd, an authorization server, packaged by Debian and its kin: https://github.com/babelouest/glewlwyd (for tests; no running server is needed)" ;;
		fuse) echo "  missing: fusermount3, and read and write access to /dev/fuse (for tests by who is not root)" ;;
		esac
	done >&2
	exit 2
}

for pm in apt-get dnf apk pacman zypper none; do
	! command -v "$pm" >/dev/null || break
done
# Package names by package manager: "essential" must install, "extra" is tried.
packages() {
	case $pm:$1 in
	apt-get:shell) echo chromium-headless-shell ;; apt-get:full) echo chromium ;; apt-get:font) echo fonts-dejavu-core fonts-liberation ;; apt-get:postgres) echo postgresql ;; apt-get:fuse) echo fuse3 ;;
	apt-get:ssh) echo openssh-client openssh-server ;; apt-get:cc) echo gcc libc6-dev ;; apt-get:slapd) echo slapd ;; apt-get:glewlwyd) echo glewlwyd ;; apt-get:node) echo nodejs npm ;; apt-get:softhsm) echo softhsm2 ;; apt-get:ip) echo iproute2 ;;
	dnf:shell) echo chromium-headless ;; dnf:full) echo chromium ;; dnf:font) echo dejavu-sans-fonts liberation-sans-fonts ;; dnf:postgres) echo postgresql-server ;; dnf:fuse) echo fuse3 ;;
	dnf:ssh) echo openssh-clients openssh-server ;; dnf:cc) echo gcc glibc-devel ;; dnf:slapd) echo openldap-servers ;; dnf:node) echo nodejs npm ;; dnf:softhsm) echo softhsm ;; dnf:ip) echo iproute ;;
	apk:shell) echo chromium-headless-shell ;; apk:full) echo chromium ;; apk:font) echo font-dejavu font-liberation ;; apk:postgres) echo postgresql ;; apk:fuse) echo fuse3 ;;
	apk:ssh) echo openssh-client openssh-keygen openssh-server ;; apk:cc) echo gcc musl-dev ;; apk:slapd) echo openldap openldap-back-mdb ;; apk:node) echo nodejs npm ;; apk:softhsm) echo softhsm ;; apk:ip) echo iproute2 ;;
	pacman:shell) echo chromium ;; pacman:full) echo chromium ;; pacman:font) echo ttf-dejavu ttf-liberation ;; pacman:postgres) echo postgresql ;; pacman:fuse) echo fuse3 ;;
	pacman:ssh) echo openssh ;; pacman:cc) echo gcc ;; pacman:slapd) echo openldap ;; pacman:node) echo nodejs npm ;; pacman:softhsm) echo softhsm ;; pacman:ip) echo iproute2 ;;
	zypper:shell) echo chromium ;; zypper:full) echo chromium ;; zypper:font) echo dejavu-fonts liberation-fonts ;; zypper:postgres) echo postgresql-server ;; zypper:fuse) echo fuse3 ;;
	zypper:ssh) echo openssh-clients openssh-server ;; zypper:cc) echo gcc glibc-devel ;; zypper:slapd) echo openldap2 ;; zypper:node) echo nodejs20 npm20 ;; zypper:softhsm) echo softhsm ;; zypper:ip) echo iproute2 ;;
	esac
}

[ "$pm" != none ] || fail "there is no package manager that this script knows (apt-get, dnf, apk, pacman, zypper)"
sudo=
if [ "$(id -u)" != 0 ]; then
	command -v sudo >/dev/null || fail "not root, and there is no sudo: run scripts/deps.sh $want as root"
	sudo=sudo
	[ -t 0 ] || sudo="sudo -n" # nobody is there to type a password
fi

refresh() {
	case $pm in
	apt-get) $sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 update ;;
	apk) $sudo apk -q update ;;
	*) ;; # they refresh by themselves
	esac
}
install() {
	case $pm in
	apt-get) $sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=300 --no-install-recommends install "$@" ;;
	dnf) $sudo dnf -q -y --setopt=install_weak_deps=False install "$@" ;;
	apk) $sudo apk -q add "$@" ;;
	pacman) $sudo pacman -Sy --needed --noconfirm --quiet "$@" ;;
	zypper) $sudo zypper -q -n install --no-recommends "$@" ;;
	esac
}

list=
for n in $need; do list="$list $(packages "$n")"; done
echo "deps: installing$list with $pm" >&2
refresh </dev/null >&2 || echo "deps: the package lists could not be refreshed" >&2
# shellcheck disable=SC2086 # words are wanted
if ! install $list </dev/null >&2; then
	# One unknown name must not keep the rest away.
	for p in $list; do install "$p" </dev/null >&2 || echo "deps: $pm has no $p" >&2; done
fi
case " $need" in *" fuse "*) [ ! -e /dev/fuse ] || $sudo chmod 0666 /dev/fuse || true ;; esac
need=$(missing | tr '\n' ' ')
[ -z "$need" ] || fail "$pm did not provide everything"
