/* A C program that uses libscanlib: the header is plain C11, and nothing but the library is needed. */
#include <scanlib.h>
#include <stdio.h>
#include <string.h>

int main(void) {
  const int64_t shape[] = {2, 3}, strides[] = {3 * sizeof(double), sizeof(double)}, per_row[] = {sizeof(double), 0};
  const double a[] = {0.5, 0.5, 0.5, 2, 2, 2}, x[] = {1, 1, 1, 1, 1, 1}, h0[] = {0, 8}, grad[] = {0, 0, 1, 0, 0, 1};
  double h[6], final[2], grad_a[6], grad_x[6];

  scanlib_operand operands[SCANLIB_ROLES];
  memset(operands, 0, sizeof operands);
  const scanlib_operand full = {SCANLIB_F64, 0, strides}, state = {SCANLIB_F64, 0, per_row};
  operands[SCANLIB_A] = operands[SCANLIB_X] = operands[SCANLIB_H] = full;
  operands[SCANLIB_H0] = operands[SCANLIB_FINAL] = state;
  scanlib_problem problem;
  int status = scanlib_problem_init(&problem, 0, 2, shape, 1, 0, operands);
  const void *pointers[SCANLIB_ROLES] = {0};
  pointers[SCANLIB_A] = a, pointers[SCANLIB_X] = x, pointers[SCANLIB_H0] = h0;
  pointers[SCANLIB_H] = h, pointers[SCANLIB_FINAL] = final;
  if (!status) status = scanlib_cpu_run(&problem, pointers);
  if (status) return fprintf(stderr, "forward: %s\n", scanlib_status_string(status)), 1;

  memset(operands, 0, sizeof operands);
  operands[SCANLIB_A] = operands[SCANLIB_H] = full;
  operands[SCANLIB_GRAD_H] = operands[SCANLIB_GRAD_A] = operands[SCANLIB_GRAD_X] = full;
  status = scanlib_problem_init(&problem, SCANLIB_CONJUGATE, 2, shape, 1, 0, operands);
  pointers[SCANLIB_GRAD_H] = grad, pointers[SCANLIB_GRAD_A] = grad_a, pointers[SCANLIB_GRAD_X] = grad_x;
  if (!status) status = scanlib_cpu_run(&problem, pointers);
  if (status) return fprintf(stderr, "backward: %s\n", scanlib_status_string(status)), 1;

  printf("%g %g %g | %g %g %g\n", h[0], h[1], h[2], h[3], h[4], h[5]);
  printf("%g %g | %g %g %g | %g %g %g\n", final[0], final[1], grad_x[0], grad_x[1], grad_x[2], grad_a[3], grad_a[4],
         grad_a[5]);
  return 0;
}
