package connector

// DeclaredRole is a role of a connected system, and what of the boundary it
// reaches there, as somebody who knows the system says.
type DeclaredRole struct {
	Person string  `json:"person"`
	Role   string  `json:"role"`
	Can    []Power `json:"can"`
}

// Power is what a role reaches that must be kept apart from others.
type Power string

// Values lists what may be written.
func (Power) Values() []string {
	return []string{"identities", "secrets", "rules", "approvals", "agents"}
}
