/* SPDX-License-Identifier: MIT */
#include "daemon/socket_path.h"
#include "base/fail.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define SUFFIX  ".arena"
#define BACKLOG 256

int csc_socket_name(const char *arena_path, char name[CSC_SOCKET_NAME_BYTES])
{
    const char *slash = strrchr(arena_path, '/'), *file = slash ? slash + 1 : arena_path;
    size_t length = strlen(file), tail = strlen(SUFFIX);

    if (length <= tail || strcmp(file + length - tail, SUFFIX) != 0 ||
        length - tail >= CSC_SOCKET_NAME_BYTES)
        return csc_fail(CASCADE_EINVAL, "%s is not called as an arena is", arena_path);
    memcpy(name, file, length - tail);
    name[length - tail] = 0;
    return 0;
}

/* A runtime directory that is named but not there is common on the nodes of a cluster. */
static int folder_path(char *path, size_t room)
{
    const char *runtime = getenv("XDG_RUNTIME_DIR");
    struct stat info;
    int length;

    if (runtime && *runtime == '/' && stat(runtime, &info) == 0 && S_ISDIR(info.st_mode))
        length = snprintf(path, room, "%s/cascade", runtime);
    else
        length = snprintf(path, room, "/tmp/cascade-%u", (unsigned)geteuid());
    return length > 0 && (size_t)length < room
               ? 0
               : csc_fail(CASCADE_EINVAL, "the path in XDG_RUNTIME_DIR is too long");
}

static int open_folder(int make, int *folder)
{
    char path[4096];
    struct stat info;
    int code = folder_path(path, sizeof path), fd;

    if (code)
        return code;
    if (make && mkdir(path, 0700) != 0 && errno != EEXIST)
        return csc_fail_errno(errno, "cannot make the directory %s", path);
    fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT)
        return csc_fail(CASCADE_EAGAIN, "there is no directory %s: nobody serves", path);
    if (fd < 0 && (errno == ELOOP || errno == ENOTDIR))
        return csc_fail(CASCADE_EACCES, "%s is a link, or no directory", path);
    if (fd < 0)
        return csc_fail_errno(errno, "cannot open the directory %s", path);
    if (fstat(fd, &info) != 0 || info.st_uid != geteuid() || (info.st_mode & 077)) {
        close(fd);
        return csc_fail(CASCADE_EACCES, "the directory %s is another user's, or open to others", path);
    }
    *folder = fd;
    return 0;
}

static struct sockaddr_un address_of(int folder, const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    _Static_assert(sizeof "/proc/self/fd/2147483647/.sock" + CSC_SOCKET_NAME_BYTES <=
                       sizeof address.sun_path,
                   "an address by descriptor fits");
    snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/%.63s.sock", folder, name);
    return address;
}

static void remove_in(int folder, const char *name)
{
    char file[CSC_SOCKET_NAME_BYTES + 8];

    snprintf(file, sizeof file, "%.63s.sock", name);
    unlinkat(folder, file, 0);
}

int csc_socket_listen(const char *name, int *result)
{
    struct sockaddr_un address;
    int folder, fd, code = open_folder(1, &folder);

    if (code)
        return code;
    address = address_of(folder, name);
    remove_in(folder, name);
    fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    /* The mode before the name: the file has it from its first moment. */
    if (fd < 0 || fchmod(fd, 0600) != 0 ||
        bind(fd, (const struct sockaddr *)&address, sizeof address) != 0 || listen(fd, BACKLOG) != 0) {
        code = csc_fail_errno(errno, "cannot listen at the socket %s.sock", name);
        if (fd >= 0)
            close(fd);
    } else {
        *result = fd;
    }
    close(folder);
    return code;
}

int csc_socket_peer(int fd, int *pid)
{
    struct ucred peer;
    socklen_t bytes = sizeof peer;

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) != 0)
        return csc_fail_errno(errno, "cannot see who is at the other end of a socket");
    if (peer.uid != geteuid())
        return csc_fail(CASCADE_EACCES, "at the other end of the socket is user %u", peer.uid);
    *pid = peer.pid;
    return 0;
}

static int connect_at(int folder, const char *name, int *result)
{
    struct sockaddr_un address = address_of(folder, name);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), code = 0, pid;

    if (fd < 0)
        return csc_fail_errno(errno, "cannot make a socket");
    if (connect(fd, (const struct sockaddr *)&address, sizeof address) != 0)
        code = errno == ENOENT || errno == ECONNREFUSED || errno == EAGAIN
                   ? csc_fail(CASCADE_EAGAIN, "nobody answers at the socket %s.sock", name)
                   : csc_fail_errno(errno, "cannot connect to the socket %s.sock", name);
    if (code == 0)
        code = csc_socket_peer(fd, &pid);
    if (code == 0 && fcntl(fd, F_SETFL, 0) != 0)
        code = csc_fail_errno(errno, "cannot make a socket wait");
    if (code)
        close(fd);
    else
        *result = fd;
    return code;
}

int csc_socket_connect(const char *name, int *fd)
{
    int folder, code = open_folder(0, &folder);

    if (code)
        return code;
    code = connect_at(folder, name, fd);
    close(folder);
    return code;
}

void csc_socket_remove(const char *name)
{
    int folder;

    if (open_folder(0, &folder) != 0)
        return;
    remove_in(folder, name);
    close(folder);
}
