/* Preloaded into a simulator process: lets the chip simulator's idle engine threads rest.
 *
 * Those threads poll their command queues by locking and unlocking a mutex without a pause, and
 * so take the processor from the thread that computes. Here every 16th unlock made by a thread
 * other than the main one sleeps for 50 microseconds, and usleep() is cut to one millisecond.
 * Between two runs the worker sets simulator_idle, and they rest for 5 milliseconds at a time.
 * What is computed, and in which order, stays as it was. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define UNLOCKS_PER_REST 16
#define REST_NS 50000
#define IDLE_REST_NS 5000000
#define LONGEST_USLEEP_NS 1000000

volatile int simulator_idle;

static int (*real_unlock)(pthread_mutex_t *);
static __thread unsigned unlocks;
static __thread char role; /* 0 not known yet, 1 main thread, 2 any other */

static void rest(long nanoseconds)
{
    struct timespec span = {0, nanoseconds};
    nanosleep(&span, NULL);
}

int pthread_mutex_unlock(pthread_mutex_t *mutex)
{
    int result;

    if (!real_unlock)
        real_unlock = (int (*)(pthread_mutex_t *))dlsym(RTLD_NEXT, "pthread_mutex_unlock");
    result = real_unlock(mutex);
    if (!role)
        role = syscall(SYS_gettid) == getpid() ? 1 : 2;
    if (role == 2 && (simulator_idle || ++unlocks % UNLOCKS_PER_REST == 0))
        rest(simulator_idle ? IDLE_REST_NS : REST_NS);
    return result;
}

int usleep(useconds_t microseconds)
{
    long wanted = microseconds * 1000L;

    rest(wanted < LONGEST_USLEEP_NS ? wanted : LONGEST_USLEEP_NS);
    return 0;
}
