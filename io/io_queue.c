/* The tasks of one lane; see io_impl.h. The lane's owner serialises the calls. */
#include "io/io_impl.h"

static struct io_task *task_of(struct link *l)
{
    return CONTAINER_OF(l, struct io_task, link);
}

void io_queue_init(struct io_queue *q)
{
    fifo_init(&q->ready);
    q->timed = NULL;
}

void io_queue_push(struct io_queue *q, struct io_task *task)
{
    ASSERT(!task->queued);
    ASSERT(task->run != NULL);
    task->queued = true;
    fifo_push(&q->ready, &task->link);
}

void io_queue_push_at(struct io_queue *q, struct io_task *task, uint64_t due_ns)
{
    struct link **at = &q->timed;

    ASSERT(!task->queued);
    ASSERT(task->run != NULL);
    task->queued = true;
    task->due_ns = due_ns;
    while (*at != NULL && task_of(*at)->due_ns <= due_ns) {
        at = &(*at)->next;
    }
    task->link.next = *at;
    *at = &task->link;
}

void io_queue_expire(struct io_queue *q, uint64_t now_ns)
{
    while (q->timed != NULL && task_of(q->timed)->due_ns <= now_ns) {
        struct link *due = q->timed;
        q->timed = due->next;
        fifo_push(&q->ready, due);
    }
}

struct io_task *io_queue_pop(struct io_queue *q)
{
    struct link *l = fifo_pop(&q->ready);

    if (l == NULL) {
        return NULL;
    }
    task_of(l)->queued = false;
    return task_of(l);
}

uint64_t io_queue_due(const struct io_queue *q)
{
    return q->timed == NULL ? UINT64_MAX : task_of(q->timed)->due_ns;
}

bool io_queue_cancel(struct io_queue *q, struct io_task *task)
{
    if (!task->queued) {
        return false;
    }
    for (struct link **at = &q->timed; *at != NULL; at = &(*at)->next) {
        if (*at == &task->link) {
            *at = task->link.next;
            task->queued = false;
            return true;
        }
    }
    for (struct link **at = &q->ready.head; *at != NULL; at = &(*at)->next) {
        if (*at == &task->link) {
            *at = task->link.next;
            if (q->ready.tail == &task->link.next) {
                q->ready.tail = at;
            }
            q->ready.count--;
            task->queued = false;
            return true;
        }
    }
    return false; /* queued on another lane: the caller asked the wrong one */
}

void io_queue_drop_timed(struct io_queue *q)
{
    while (q->timed != NULL) {
        struct io_task *task = task_of(q->timed);
        q->timed = task->link.next;
        task->queued = false;
    }
}

void io_queue_drop_all(struct io_queue *q)
{
    io_queue_drop_timed(q);
    while (io_queue_pop(q) != NULL) {
        /* popping is all there is to do: the task belongs to its owner */
    }
}
