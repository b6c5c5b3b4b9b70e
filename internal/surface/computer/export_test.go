package computer

import "time"

// SetSettle sets the pause before the picture that ends a request.
func (s *Server) SetSettle(d time.Duration) { s.settle = d }
