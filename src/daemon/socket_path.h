/* SPDX-License-Identifier: MIT */
/*
 * Where a daemon's socket lies: NAME.sock in a folder of this user's, $XDG_RUNTIME_DIR/cascade, or
 * /tmp/cascade-UID where there is no such directory. NAME is that of the arena, so both sides compute
 * it.
 *
 * The folder is checked, then used by its descriptor: it cannot be exchanged in between, and its path
 * may be longer than the address of a socket.
 */
#ifndef CSC_DAEMON_SOCKET_PATH_H
#define CSC_DAEMON_SOCKET_PATH_H

#include <stddef.h>

#define CSC_SOCKET_NAME_BYTES 64u

/** The name for the arena at that path: its file's, without ".arena". Errors: CASCADE_EINVAL. */
int csc_socket_name(const char *arena_path, char name[CSC_SOCKET_NAME_BYTES]);

/** A socket that listens, mode 0600; makes the folder. What lies there is a dead daemon's: the caller
 * owns the arena. Errors: CASCADE_EACCES (the folder is a link, another user's, or open to others),
 * CASCADE_ENOSPC, CASCADE_EIO. */
int csc_socket_listen(const char *name, int *fd);

/** A connection to who listens there, blocking. Errors: CASCADE_EAGAIN (nobody does, or he has more to
 * accept than he can), CASCADE_EACCES (also: he is another user), CASCADE_EIO. */
int csc_socket_connect(const char *name, int *fd);

/** Removes the socket. */
void csc_socket_remove(const char *name);

/** Who is at the other end. Errors: CASCADE_EACCES (another user). */
int csc_socket_peer(int fd, int *pid);

#endif
