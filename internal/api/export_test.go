package api

// MayLaunch is mayLaunch, for the table of users.
var MayLaunch = mayLaunch
