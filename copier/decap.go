package copier

import (
	"errors"
	"fmt"
	"strings"

	"flowtwin/internal/packet"
)

// ParseDecap reads the names of encapsulations that mirrored packets come in.
func ParseDecap(names []string) (packet.Encap, error) {
	var all packet.Encap
	for _, name := range names {
		switch strings.ToLower(strings.TrimSpace(name)) {
		case "vxlan":
			all |= packet.VXLAN
		case "geneve":
			all |= packet.GENEVE
		case "gre":
			all |= packet.GRE
		default:
			return 0, fmt.Errorf("%q is none of vxlan, geneve and gre", name)
		}
	}
	return all, nil
}

// checkDecap says what does not go with mirrored packets.
func (cfg *Config) checkDecap() error {
	if cfg.Decap == 0 {
		return nil
	}
	if cfg.Replay != nil {
		return errors.New("decap: a recording cannot be unwrapped: record what is inside")
	}
	if n := max(cfg.Shards, cfg.Connections); n > 1 {
		return fmt.Errorf("decap: mirrored packets go through 1 shard and connection, not %d", n)
	}
	for _, t := range append([]Target{cfg.Target}, cfg.More...) {
		for _, m := range t.Maps {
			if !m.Server.IsValid() {
				return fmt.Errorf("decap: the map of port %d needs its server's address, such as 10.1.0.5:%d, since mirrored packets are not this host's", m.Port, m.Port)
			}
		}
	}
	return nil
}
