package readiness

// conditions of a production-ready deployment, in the order in which they are
// asked. The catalogue's controls say to which frameworks each gives evidence.
var conditions = []condition{
	{"inference-location", "Where inference runs", "Where does the model run, and is that the place that was certified?",
		[]string{"SP-CT-05"}, checkInference},
	{"change-approval", "Who may approve changes", "Who can say yes to a change of this agent, and did they, by their own signature?",
		[]string{"SP-AP-03", "SP-AZ-03", "SP-CT-02", "SP-GV-03"}, checkApprovers},
	{"logs", "How logs are kept", "Is every record still there, unchanged, signed for, and kept for a stated time?",
		[]string{"SP-AU-02", "SP-AU-04", "SP-AU-05"}, checkLog},
	{"recertification", "How behaviour is re-certified", "Did this very boundary pass its tests, did others approve that, and does a change end it?",
		[]string{"SP-CT-01", "SP-CT-02", "SP-CT-03", "SP-CT-04"}, checkCertification},
	{"workload-identity", "Workload identity instead of a static secret", "Does the agent prove what it is with an identity of its own that lives for minutes?",
		[]string{"SP-ID-01", "SP-CR-02"}, checkIdentity},
	{"just-in-time", "Credentials just in time, and revoked", "Was every credential issued for one task, and seen to be dead at its end?",
		[]string{"SP-CR-01", "SP-CR-04"}, checkLeases},
	{"runtime-policy", "Actions checked by policy at run time", "Was every effect decided by policy, against the task's intent, before it happened?",
		[]string{"SP-AZ-01", "SP-AZ-02", "SP-AU-03"}, checkDecisions},
	{"log-content", "Logs show approver, context and re-certification", "For every privileged step: who approved it, what was known, and under which certification?",
		[]string{"SP-AU-01", "SP-AP-01", "SP-AP-02", "SP-ID-02"}, checkPrivileged},
	{"owner-environment", "Named owner and defined environment", "Who answers for this agent, and in what exactly does it run?",
		[]string{"SP-GV-01", "SP-CT-01", "SP-SB-01"}, checkOwner},
	{"separation", "Identity, secrets and admin roles kept apart", "Does anybody hold roles that must not meet, or approve their own work?",
		[]string{"SP-GV-03", "SP-AP-03"}, checkSeparation},
}
