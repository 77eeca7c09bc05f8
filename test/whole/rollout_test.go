package whole

import "testing"

func (s *story) rollout(t *testing.T)   {}
func (s *story) lateProxy(t *testing.T) {}
func (s *story) commands(t *testing.T)  {}
func (s *story) badInput(t *testing.T)  {}
