package contain

import "os"

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

func PlanFile() (*os.File, error) { return planFile(plan{Path: "/bin/true"}) }
func ReadPlan() error             { _, err := readPlan(); return err }
