package netstack

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// settings makes the device's own sysctls what they should be. Those that only
// make things tidier may fail: in containers /proc/sys is often read-only.
//
// The reverse path filter needs nothing: each source address of the pool has its
// route through the device. For original addresses the kernel finds the rule of
// their answers, or did not before 4.20: there the strict filter has to be loose.
func (d *device) settings(cfg *Config) error {
	// A new device takes over a router's setting; see lifetime for what keeps
	// packets on the host when somebody sets it later.
	tidy := [][3]string{{"ipv4", "forwarding", "0"}}
	if cfg.Original && (readSysctl(sysctlPath("ipv4", "all", "rp_filter")) == "1" || readSysctl(sysctlPath("ipv4", d.name, "rp_filter")) == "1") {
		tidy = append(tidy, [3]string{"ipv4", "rp_filter", "2"})
	}
	if ipv6Enabled() && cfg.MTU >= minMTU6 {
		v6, err := d.enableIPv6(cfg)
		switch {
		case err != nil:
			return err
		case v6: // the kernel is not to talk by itself
			tidy = append(tidy, [3]string{"ipv6", "forwarding", "0"}, [3]string{"ipv6", "accept_ra", "0"}, [3]string{"ipv6", "autoconf", "0"},
				[3]string{"ipv6", "addr_gen_mode", "1"}, [3]string{"ipv6", "router_solicitations", "0"})
		default:
			tidy = append(tidy, [3]string{"ipv6", "disable_ipv6", "1"})
		}
	}
	var failed []string
	var last error
	for _, s := range tidy {
		if err := d.sysctl(s[0], s[1], s[2]); err != nil {
			failed, last = append(failed, "net."+s[0]+".conf."+d.name+"."+s[1]+"="+s[2]), err
		}
	}
	if last != nil {
		cfg.Log.Warn("some settings of the TUN device cannot be made; sessions work without them", "settings", failed, "err", last)
	}
	if cfg.Loopback {
		d.local.open(d.name)
	}
	return nil
}

// enableIPv6 makes the device speak IPv6 where the pool has it, also on hosts
// whose new devices do not. Where that cannot be, the default pool does without.
func (d *device) enableIPv6(cfg *Config) (bool, error) {
	if !slices.ContainsFunc(cfg.Pool, isV6) {
		return false, nil
	}
	err := d.sysctl("ipv6", "disable_ipv6", "0")
	if err == nil {
		return true, nil
	}
	if !cfg.defaultPool {
		return false, fmt.Errorf("pool with IPv6: new devices of this host have it switched off: %w", err)
	}
	cfg.Pool = slices.DeleteFunc(cfg.Pool, isV6)
	cfg.Log.Info("no IPv6 targets: new devices of this host have IPv6 switched off", "err", err)
	return false, nil
}

func isV6(p netip.Prefix) bool { return p.Addr().Is6() }

// sysctl sets one of the device's settings, unless it has the value already.
func (d *device) sysctl(family, key, value string) error {
	path := sysctlPath(family, d.name, key)
	if readSysctl(path) == value {
		return nil
	}
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		return fmt.Errorf("set sysctl: %w", err)
	}
	return nil
}

func sysctlPath(family, device, key string) string {
	return "/proc/sys/net/" + family + "/conf/" + device + "/" + key
}

// readSysctl returns a setting, or "" when it cannot be read.
func readSysctl(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func ipv6Enabled() bool { return readSysctl(sysctlPath("ipv6", "all", "disable_ipv6")) == "0" }

// localnet lets packets of the device reach 127.0.0.0/8, from the first time that
// a target there is used: nobody else pays for it. The setting ends with the
// device. Its file is opened at the start, since a path in /proc/sys means the
// network namespace of the thread that opens it.
type localnet struct {
	on   atomic.Bool
	mu   sync.Mutex
	file *os.File
	err  error // why file is nil
}

func (l *localnet) open(device string) {
	const key = "route_localnet"
	path := sysctlPath("ipv4", device, key)
	if readSysctl(path) == "1" || readSysctl(sysctlPath("ipv4", "all", key)) == "1" {
		l.on.Store(true)
		return
	}
	l.file, l.err = os.OpenFile(path, os.O_WRONLY, 0)
}

// use makes loopback targets work, or says why they do not.
func (l *localnet) use() error {
	if l.on.Load() {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.err != nil:
		return l.err
	case l.file == nil:
		return errors.New("the Loopback setting is missing")
	}
	if _, err := l.file.WriteString("1"); err != nil {
		return err
	}
	l.on.Store(true)
	return nil
}

func (l *localnet) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file, l.err = nil, os.ErrClosed
	return err
}
