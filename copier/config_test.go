package copier

import (
	"runtime"
	"testing"
)

// The limit comes before the default of shards is taken from the CPUs: a host
// with many must not end up with one shard.
func TestLimitCPUsKeepsTheShards(t *testing.T) {
	before := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(before)
	for _, tt := range []struct{ cpus, shards, connections, wantShards, wantCPUs int }{
		{1, 0, 1, 1, 1},
		{2, 0, 1, 1, 2},
		{8, 0, 1, 2, 4},
		{64, 0, 1, 4, 6},
		{64, 0, 16, 16, 18},
		{64, 9, 1, 9, 11},
	} {
		runtime.GOMAXPROCS(tt.cpus)
		cfg, err := Config{Target: Target{Maps: testMaps().list.Load().maps}, Shards: tt.shards, Connections: tt.connections}.LimitCPUs().populate()
		if err != nil {
			t.Fatal(err)
		}
		if got := runtime.GOMAXPROCS(0); cfg.Shards != tt.wantShards || got != tt.wantCPUs {
			t.Errorf("%+v: %d shards, %d CPUs", tt, cfg.Shards, got)
		}
	}
}
