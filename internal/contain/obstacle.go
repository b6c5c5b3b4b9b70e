package contain

import (
	"os"
	"strings"
)

// namespaceObstacle names the setting of this machine that forbids what Start
// needs, with the way to change it; empty when none is known.
func namespaceObstacle() string {
	return obstacle(func(path string) string {
		b, _ := os.ReadFile(path)
		return strings.TrimSpace(string(b))
	}, os.Geteuid() == 0)
}

func obstacle(read func(path string) string, root bool) string {
	for _, k := range []string{"user", "net", "mnt", "pid", "ipc", "uts"} {
		if read("/proc/sys/user/max_"+k+"_namespaces") == "0" {
			return "sysctl user.max_" + k + "_namespaces is 0: set it to 15000"
		}
	}
	status := read("/proc/self/status")
	switch {
	case !root && read("/proc/sys/kernel/unprivileged_userns_clone") == "0":
		return "user namespaces are closed to ordinary users: sysctl -w kernel.unprivileged_userns_clone=1"
	case !root && read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
		return "AppArmor takes the capabilities of user namespaces: load a profile with 'userns,' for this binary, " +
			"or sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
	case strings.Contains(status, "Seccomp:\t2"):
		return "a seccomp filter is set on this process: in a container, start it with one that allows unshare, mount and pivot_root " +
			"(docker: --security-opt seccomp=unconfined --security-opt systempaths=unconfined)"
	case root && strings.Contains(status, "CapEff:") && !hasCap(status, 21):
		return "root without CAP_SYS_ADMIN: run as an ordinary user instead, or add the capability"
	}
	return ""
}

// hasCap reads bit n of CapEff in a process status.
func hasCap(status string, n uint) bool {
	_, rest, _ := strings.Cut(status, "CapEff:")
	hex := strings.TrimSpace(strings.SplitN(rest, "\n", 2)[0])
	digit := len(hex) - 1 - int(n/4)
	if digit < 0 {
		return false
	}
	return strings.IndexByte("0123456789abcdef", hex[digit])>>(n%4)&1 == 1
}
