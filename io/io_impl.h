/*
 * What io_posix and io_sim share and nobody else may see: the head of every file, the loops that
 * turn raw system calls (short, interrupted) into calls that did all or failed, the mapping of
 * errno, and the queue of a lane. The simulator feeds the same loops with short counts and EINTR on
 * purpose, so the code that runs on a real disk is the code that was tested.
 */
#ifndef LEVEE_IO_IMPL_H
#define LEVEE_IO_IMPL_H

#include <sys/types.h>

#include "io/io.h"

/* One attempt each, in the manner of the system call: -1 and errno, or how much was done. */
struct io_raw {
    ssize_t (*pread)(struct io_file *f, void *buf, size_t len, uint64_t offset);
    ssize_t (*pwritev)(struct io_file *f, const struct iovec *iov, int count, uint64_t offset);
    int (*sync)(struct io_file *f);
    int (*truncate)(struct io_file *f, uint64_t size);
};

/* The head of a file of either kind. */
struct io_file {
    struct io *io;
    const struct io_raw *raw;
    char *path; /* for error texts */
};

/* The loops (io/io_file.c); they fit the vtable as they are. */
int io_file_pread(struct io_file *f, void *buf, size_t len, uint64_t offset, size_t *ret_got,
                  struct levee_error *err);
int io_file_pwritev(struct io_file *f, const struct iovec *iov, int count, uint64_t offset,
                    struct levee_error *err);
int io_file_sync(struct io_file *f, struct levee_error *err);
int io_file_truncate(struct io_file *f, uint64_t size, struct levee_error *err);

/* "cannot <verb> <path>" with the code that fits the errno. */
int io_fail(struct levee_error *err, int sys_errno, const char *verb, const char *path);
/* The bytes of a vector; UINT64_MAX when they do not fit a file. */
uint64_t io_iov_bytes(const struct iovec *iov, int count);
/* Sorts by name. */
void io_list_sort(struct io_list *list);
/* Appends a copy of name; cap is the caller's count of allocated items. false: no memory. */
bool io_list_add(struct io_list *list, size_t *cap, const char *name);

/*
 * The tasks of one lane (io/io_queue.c): a FIFO of those ready to run and a list of timed ones,
 * sorted by due time, equal times in the order posted. Both are threaded through the tasks
 * themselves, so posting needs no memory and cannot fail. A lane has a handful of timers, hence a
 * list and no heap.
 */
struct io_queue {
    struct fifo ready;
    struct link *timed;
};
void io_queue_init(struct io_queue *q);
void io_queue_push(struct io_queue *q, struct io_task *task);
void io_queue_push_at(struct io_queue *q, struct io_task *task, uint64_t due_ns);
/* Moves what is due to the end of the ready tasks. */
void io_queue_expire(struct io_queue *q, uint64_t now_ns);
/* The next ready task, no longer queued; NULL: none. */
struct io_task *io_queue_pop(struct io_queue *q);
/* Due time of the first timed task; UINT64_MAX: none. */
uint64_t io_queue_due(const struct io_queue *q);
bool io_queue_cancel(struct io_queue *q, struct io_task *task);
void io_queue_drop_timed(struct io_queue *q);
void io_queue_drop_all(struct io_queue *q);

#endif
