package supervisor

import (
	"errors"
	"fmt"
)

// reread reads the configuration that cfg came from again. What belongs to the
// master itself can't change while it lives.
func reread(cfg Config) (Config, error) {
	if cfg.Reload == nil {
		return Config{}, errors.New("there is no configuration to read again")
	}
	now, err := cfg.Reload()
	if err != nil {
		return Config{}, err
	}
	switch {
	case now.Name != cfg.Name:
		return Config{}, fmt.Errorf("the name can't change while the app runs, and is %q now: set it back, or stop %s and run it again", now.Name, cfg.Name)
	case now.PIDFile != cfg.PIDFile:
		return Config{}, errors.New("pid_file can't change while the app runs: set it back, or stop the app and run it again")
	case now.ControlGroup != cfg.ControlGroup:
		return Config{}, errors.New("control.group can't change while the app runs: set it back, or stop the app and run it again")
	case now.Metrics != cfg.Metrics:
		return Config{}, errors.New("metrics.address can't change while the app runs: set it back, or stop the app and run it again")
	case now.Log.Mode != cfg.Log.Mode:
		return Config{}, errors.New("log.mode can't change while the app runs: set it back, or stop the app and run it again")
	}
	return now, nil
}
