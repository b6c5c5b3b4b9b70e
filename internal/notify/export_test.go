package notify

// Hello is the beginning of a session with a mail server, at an address as it is
// given.
var Hello = hello
