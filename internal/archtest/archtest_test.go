// Package archtest holds the import table of ARCHITECTURE.md as a test. It asks
// go list, whose answers the test cache cannot see change: run it with -count=1.
package archtest

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// table says which packages of ours each package may import, tests excluded. A
// package that is missing here fails: new ones are entered on purpose.
var table = map[string][]string{
	"internal/packet":            {},
	"internal/packet/packettest": {"internal/packet"},
	"internal/flow":              {"internal/packet"},
	"internal/cli":               {},
	"internal/cli/clitest":       {},
	"internal/pcap":              {},
	"internal/http1":             {},
	"internal/ctl":               {},
	"internal/epoll":             {},
	"tunnel/frame":               {"internal/packet", "internal/flow"},
	"tunnel":                     {"internal/packet", "internal/flow", "internal/epoll", "tunnel/frame"},
	"netstack":                   {"internal/packet"},
	"copier/capture":             {"internal/packet", "internal/flow", "internal/epoll"},
	"copier/offline":             {"internal/packet", "internal/flow", "internal/pcap", "copier/capture"},
	"copier/recording":           {"internal/packet", "internal/flow", "internal/pcap", "copier/capture"},
	"copier/report":              {"internal/packet", "internal/flow", "tunnel/frame"},
	"copier": {
		"internal/packet", "internal/flow", "internal/http1", "tunnel", "tunnel/frame",
		"copier/capture", "copier/offline", "copier/recording", "copier/report", "internal/ctl", "internal/pcap",
	},
	"responder/replay": {"internal/packet", "internal/flow", "tunnel/frame"},
	"responder": {
		"internal/packet", "internal/flow", "tunnel", "tunnel/frame", "netstack", "responder/replay", "internal/ctl",
	},
	"cmd/copier":        {"copier", "copier/offline", "copier/report", "internal/cli", "internal/http1", "internal/ctl", "tunnel"},
	"cmd/responder":     {"responder", "internal/cli", "internal/ctl", "tunnel"},
	"internal/testnet":  {},
	"internal/archtest": {},
}

// tools are programs and tests of ours that stand above the product and may
// import what they like of it.
var tools = []string{"internal/e2e", "internal/demo", "internal/bench"}

// doors says which packages may import a heavy dependency.
var doors = map[string][]string{
	"github.com/quic-go/quic-go":   {"tunnel"},
	"gvisor.dev/gvisor":            {"netstack"},
	"golang.zx2c4.com/wireguard":   {"netstack"},
	"github.com/spf13/pflag":       {"cmd/copier", "cmd/responder", "internal/cli"},
	"github.com/google/gopacket":   {"copier/capture", "copier/offline"},
	"github.com/vishvananda/netns": {"internal/testnet"},
}

func TestImportTable(t *testing.T) {
	for pkg, imports := range listImports(t) {
		if isTool(pkg) {
			continue
		}
		allowed, known := table[pkg]
		if !known {
			t.Errorf("%s is not in the import table", pkg)
			continue
		}
		for _, imp := range imports {
			if own, ok := strings.CutPrefix(imp, "flowtwin/"); ok && !slices.Contains(allowed, own) {
				t.Errorf("%s imports %s: not in the import table", pkg, own)
			}
		}
	}
}

func TestDoors(t *testing.T) {
	for pkg, imports := range listImports(t) {
		if isTool(pkg) {
			continue
		}
		for _, imp := range imports {
			for dep, owners := range doors {
				if (imp == dep || strings.HasPrefix(imp, dep+"/")) && !slices.Contains(owners, pkg) {
					t.Errorf("%s imports %s: only %v may", pkg, imp, owners)
				}
			}
		}
	}
}

// The copier runs on production hosts: it must stay small and auditable.
func TestCopierDoesNotLinkTheStack(t *testing.T) {
	for dep := range strings.FieldsSeq(goList(t, "-deps", "./cmd/copier")) {
		for _, heavy := range []string{"gvisor.dev/", "golang.zx2c4.com/wireguard"} {
			if strings.HasPrefix(dep, heavy) {
				t.Errorf("cmd/copier links %s", dep)
			}
		}
	}
}

// The linter holds it to one file of each.
func TestUnsafeHasThreePlaces(t *testing.T) {
	for pkg, imports := range listImports(t) {
		if slices.Contains(imports, "unsafe") && !slices.Contains([]string{"copier/capture", "tunnel", "netstack"}, pkg) {
			t.Errorf("%s imports unsafe: only the files that make system calls may, see .golangci.yml", pkg)
		}
	}
}

func TestNoCgo(t *testing.T) {
	for pkg, imports := range listImports(t) {
		if slices.Contains(imports, "C") {
			t.Errorf("%s uses cgo", pkg)
		}
	}
}

func isTool(pkg string) bool {
	return slices.ContainsFunc(tools, func(t string) bool { return pkg == t || strings.HasPrefix(pkg, t+"/") })
}

// listImports returns each package of the module with its direct imports.
func listImports(t *testing.T) map[string][]string {
	t.Helper()
	out := make(map[string][]string)
	for line := range strings.Lines(goList(t, "-f", `{{.ImportPath}} {{join .Imports " "}}`, "./...")) {
		f := strings.Fields(line)
		out[strings.TrimPrefix(f[0], "flowtwin/")] = f[1:]
	}
	if len(out) == 0 {
		t.Fatal("go list named no packages")
	}
	return out
}

func goList(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list"}, args...)...)
	cmd.Dir = filepath.Join("..", "..")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list %v: %v\n%s", args, err, stderr.String())
	}
	return string(out)
}
