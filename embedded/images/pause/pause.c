/* The sandbox's process: holds a pod's namespaces, and as process 1 of a shared process namespace reaps orphans.
 * No C library: three pages of memory a pod. Signals stay blocked and are taken synchronously, so that process 1,
 * for which the kernel drops unhandled signals, still sees SIGTERM. */

#if defined(__x86_64__)
#define SYS_rt_sigprocmask 14
#define SYS_rt_sigtimedwait 128
#define SYS_wait4 61
#define SYS_exit_group 231
static long call4(long n, long a, long b, long c, long d)
{
	long r;
	register long r10 __asm__("r10") = d;
	__asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
	return r;
}
__asm__(".globl _start\n_start:\n\txor %ebp,%ebp\n\tand $-16,%rsp\n\tcall pause_main\n");
#elif defined(__aarch64__)
#define SYS_rt_sigprocmask 135
#define SYS_rt_sigtimedwait 137
#define SYS_wait4 260
#define SYS_exit_group 94
static long call4(long n, long a, long b, long c, long d)
{
	register long x8 __asm__("x8") = n;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
	return x0;
}
__asm__(".globl _start\n_start:\n\tbl pause_main\n");
#else
#error "pause.c knows x86_64 and aarch64"
#endif

#define SIG_BLOCK 0
#define SIGINT 2
#define SIGTERM 15
#define SIGCHLD 17
#define WNOHANG 1
#define BIT(s) (1UL << ((s) - 1))

__attribute__((noreturn, used)) void pause_main(void)
{
	unsigned long set = BIT(SIGINT) | BIT(SIGTERM) | BIT(SIGCHLD);
	call4(SYS_rt_sigprocmask, SIG_BLOCK, (long)&set, 0, sizeof set);
	for (;;) {
		long sig = call4(SYS_rt_sigtimedwait, (long)&set, 0, 0, sizeof set);
		if (sig == SIGINT || sig == SIGTERM)
			for (;;)
				call4(SYS_exit_group, 0, 0, 0, 0);
		while (call4(SYS_wait4, -1, 0, WNOHANG, 0) > 0)
			;
	}
}
