package kinds

import (
	"errors"
	"fmt"
	"sync"

	celgo "github.com/google/cel-go/cel"
	"k8s.io/apimachinery/pkg/util/validation/field"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"
)

// expressions compiles the CEL expressions of one object under validation. Its compilers are made when the first
// expression asks for them: a server without policies pays for none.
type expressions struct {
	params    bool            // params is declared
	stored    map[string]bool // expressions that the object replaced has, and so may keep
	composing bool            // the object declares variables
	composed  *plugincel.CompositedCompiler
}

// statelessCompiler compiles what knows of no variables; it is shared and immutable.
var statelessCompiler = sync.OnceValue(func() plugincel.Compiler {
	return plugincel.NewCompiler(environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()))
})

func (e *expressions) sharedCompiler() plugincel.Compiler { return statelessCompiler() }

// compiler is the one of the object's own variables, if it may have them.
func (e *expressions) compiler() plugincel.Compiler {
	if !e.composing {
		return e.sharedCompiler()
	}
	if e.composed == nil {
		composed, err := plugincel.NewCompositedCompiler(environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()))
		if err != nil { // it extends the environment above by one variable
			panic(fmt.Sprintf("compile CEL with variables: %v", err))
		}
		e.composed = composed
	}
	return e.composed
}

// expression is one CEL text with the types that it may have.
type expression struct {
	name  string // of a variable
	text  string
	types []*celgo.Type
}

// GetExpression, GetName and ReturnTypes implement the compiler's NamedExpressionAccessor.
func (e *expression) GetExpression() string      { return e.text }
func (e *expression) GetName() string            { return e.name }
func (e *expression) ReturnTypes() []*celgo.Type { return e.types }

func condition(text string) *expression {
	return &expression{text: text, types: []*celgo.Type{celgo.BoolType}}
}

// compile says what is wrong with an expression.
func (e *expressions) compile(x plugincel.ExpressionAccessor, c plugincel.Compiler, authorizer bool, path *field.Path) field.ErrorList {
	return e.compileWith(x, c, plugincel.OptionalVariableDeclarations{HasParams: e.params, HasAuthorizer: authorizer}, path)
}

func (e *expressions) compileWith(x plugincel.ExpressionAccessor, c plugincel.Compiler, o plugincel.OptionalVariableDeclarations, path *field.Path) field.ErrorList {
	result := c.CompileCELExpression(x, o, environmentOf(e.stored[x.GetExpression()]))
	return celFault(result.Error, x.GetExpression(), path)
}

// variable compiles a variable and lets later expressions use it.
func (e *expressions) variable(name, text string, path *field.Path) field.ErrorList {
	x := &expression{name: name, text: text, types: []*celgo.Type{celgo.AnyType, celgo.DynType}}
	e.compiler()
	result := e.composed.CompileAndStoreVariable(x, plugincel.OptionalVariableDeclarations{HasParams: e.params, HasAuthorizer: true}, environmentOf(e.stored[text]))
	return celFault(result.Error, text, path)
}

func celFault(err *cel.Error, text string, path *field.Path) field.ErrorList {
	if err == nil {
		return nil
	}
	switch err.Type {
	case cel.ErrorTypeRequired:
		return field.ErrorList{field.Required(path, err.Detail)}
	case cel.ErrorTypeInvalid:
		return field.ErrorList{field.Invalid(path, text, err.Detail)}
	case cel.ErrorTypeInternal:
		return field.ErrorList{field.InternalError(path, err)}
	}
	return field.ErrorList{field.InternalError(path, fmt.Errorf("unsupported error type: %w", errors.New(err.Error())))}
}
