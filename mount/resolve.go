package mount

import (
	"github.com/tnvfs/tnv/discover"
)

// Resolve makes a Config of a command line: trackers, key and volume that it
// does not name are looked for where package discover says. source tells people
// where they were found. Log and Ready are left to the caller.
func Resolve(a Args) (cfg Config, source string, err error) {
	trackers, key, volume, source, err := discover.Find(a.Trackers, a.KeyFile, a.Dir)
	if err != nil {
		return Config{}, "", err
	}
	if a.Volume != "" {
		volume = a.Volume
	}
	cfg = Config{Mountpoint: a.Mountpoint, Subdir: a.Subdir, Options: a.Options, Admin: a.Admin}
	cfg.Client.Trackers, cfg.Client.Key, cfg.Client.Volume = trackers, key, volume
	cfg.Client.CacheDir, cfg.Client.CacheSize = a.CacheDir, a.CacheSize
	cfg.Client.Memory, cfg.Client.Timeout = a.Memory, a.Timeout
	return cfg, source, nil
}
