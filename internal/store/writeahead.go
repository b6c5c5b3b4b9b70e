package store

import (
	"context"
	"database/sql"
	"sync"

	sqlite "modernc.org/sqlite"
)

// logPages is how many pages commits write before they are copied from the
// write-ahead log into the database.
const logPages = 1000

// writeAhead copies the log, beside the commits, on a connection of its own:
// first all there is, while commits go on, which do not need it; then, while
// none is under way, the little that came meanwhile. So the whole log is in the
// database and the next commit starts it anew, unless a reader still needs it.
//
// SQLite syncs the log before it copies, and the database after, before it lets
// the log be written over: a crash at any time leaves all of it in the log. It
// is not left to SQLite's own automatic copying, which does not tell of a
// failed sync: the log would be written over when the database has lost what
// was in it.
type writeAhead struct {
	conn *sqliteConn
	// The committer's, under SQLite.mu.
	limit, written int // pages
	full           chan struct{}

	cancel context.CancelFunc
	wg     sync.WaitGroup
}

func (s *SQLite) startCopying(limit int) error {
	c, err := s.writeDB.Conn(context.Background())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log.conn = &sqliteConn{ctx: context.Background(), q: c, stmts: map[string]*sql.Stmt{}}
	s.log.limit, s.log.full, s.log.cancel = limit, make(chan struct{}, 1), cancel
	s.log.wg.Go(func() {
		for {
			select {
			case <-s.log.full:
				s.copyLog()
			case <-ctx.Done():
				return
			}
		}
	})
	return nil
}

// stopCopying waits for a copy under way. What is left in the log stays there,
// or is copied when the last connection is closed.
func (s *SQLite) stopCopying() error {
	if s.log.conn == nil {
		return nil
	}
	s.log.cancel()
	s.log.wg.Wait()
	return s.log.conn.close()
}

func (s *SQLite) copyLog() {
	s.mu.Lock()
	fatal := s.fatal
	s.mu.Unlock()
	if fatal != nil {
		return
	}
	_, err := s.log.conn.checkpoint("PASSIVE")
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil && s.fatal == nil {
		_, err = s.log.conn.checkpoint("PASSIVE")
	}
	// What can be borne, such as a full disk, is tried again when the log has
	// grown as much again.
	s.judge(err)
}

// countPages follows a commit.
func (s *SQLite) countPages() {
	if s.log.conn == nil {
		return
	}
	n := s.log.limit // if SQLite does not tell
	s.writer.q.(*sql.Conn).Raw(func(c any) error {
		if status, ok := c.(sqlite.DBStatus); ok {
			if written, _, err := status.Status(sqlite.DBStatusCacheWrite, true); err == nil {
				n = written
			}
		}
		return nil
	})
	if s.log.written += n; s.log.written < s.log.limit {
		return
	}
	s.log.written = 0
	select {
	case s.log.full <- struct{}{}:
	default: // one is waiting
	}
}

// checkpoint copies the log into the database. It is busy when somebody still
// uses what the mode would have to change.
func (c *sqliteConn) checkpoint(mode string) (busy bool, err error) {
	err = c.rows("PRAGMA wal_checkpoint("+mode+")", 3, func(cols []any) error {
		busy = integer(cols[0]) != 0
		return nil
	})
	return busy, err
}
