package contain

// What tests from outside need to see.
var (
	Build    = build
	Obstacle = obstacle
	RangeOf  = rangeOf
	Stages   = []string{stageSetup, stageInit, stageProbe}
)

const AuditArch = auditArch

func DeniedAlways() []uint32  { return deniedAlways }
func DeniedHarness() []uint32 { return deniedHarness }
