package local

// Status is one line of `wherry list`.
type Status struct {
	Name    string `json:"name"`
	Nodes   int    `json:"nodes"`
	Running int    `json:"running"` // nodes whose main process runs
	Server  string `json:"server"`
	DataDir string `json:"dataDir"`
	PIDs    []int  `json:"pids,omitempty"` // main processes, by node
	Context string `json:"context"`
}

// List describes every cluster on this machine.
func List() ([]Status, error) {
	all, err := names()
	if err != nil {
		return nil, err
	}
	out := make([]Status, 0, len(all))
	for _, name := range all {
		s, err := Get(name)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// Get describes one cluster.
func Get(name string) (Status, error) {
	c, err := load(name, "")
	if err != nil {
		return Status{}, err
	}
	s := Status{Name: name, Nodes: c.Nodes, Server: c.serverURL(), DataDir: c.dataDir, Context: c.context()}
	for i := 1; i <= c.Nodes; i++ {
		if p, ok := c.running(i); ok {
			s.Running++
			s.PIDs = append(s.PIDs, p.pid)
			p.close()
		}
	}
	return s, nil
}
